"""Its row in the gallery."""

from moeviz.history.shared.system import System

SYSTEM = System("svm-experts", "2002", "SVM experts", "support vector machines, each with a limited capacity")
