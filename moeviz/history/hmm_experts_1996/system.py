"""Its row in the gallery."""

from moeviz.history.shared.system import System

SYSTEM = System("hmm-experts", "1996", "HMM experts", "hidden Markov models; the gate decides frame by frame")
