"""The claims of one system as JSON: python -m moeviz.history NAME [--quick]

In a process of its own and on one thread, so that several can be checked at a time.
"""

import json
import sys

import torch

from moeviz.history.checked import claims_of

if __name__ == "__main__":
    torch.set_num_threads(1)
    found = claims_of(sys.argv[1], quick="--quick" in sys.argv)
    json.dump(found.to_dict("records"), sys.stdout)
