"""`python -m moeviz` is the command `moeviz`."""

import sys

from moeviz.cli import main

sys.exit(main())
