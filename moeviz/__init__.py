"""moeviz: see which experts of a Mixture-of-Experts language model fire, token by token and layer by layer.

    >>> import moeviz
    >>> trace = moeviz.trace(moeviz.load_model(), "Il fait froid.")
    >>> trace.experts.shape[0], trace.experts.shape[2]  # layers, slots
    (6, 2)

Everything that most programs need is a name here, imported on first use. `import moeviz` loads neither torch nor
Streamlit nor pandas. It sets OMP_WAIT_POLICY=PASSIVE, unless the variable is set or torch is loaded already: torch's
threads then sleep while they wait, which on a busy machine makes short forwards many times faster.
"""

import os
import sys
from importlib import import_module

import moeviz.interrupted as _interrupted  # noqa: F401  # from here on, Ctrl-C ends the command in one line
from moeviz._lazy import lazy_package
from moeviz._viewers import VIEWERS

__version__ = "0.1.0"

if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__getattr__, __dir__, __all__ = lazy_package(__name__)

VIEWERS["plot"] = lambda trace: import_module("moeviz.report.plots").Plots(trace)
VIEWERS["html"] = lambda trace: import_module("moeviz.report.notebook").trace_html(trace)
