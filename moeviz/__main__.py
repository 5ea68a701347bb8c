"""`python -m moeviz` is the command `moeviz`."""

import sys

from moeviz.cli.main import main

sys.exit(main())
