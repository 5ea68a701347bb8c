"""Its charts, each with what it is drawn from: the result that ships, or for the soft mixture a second of training."""

from moeviz.history.shared.results import shipped
from moeviz.history.shared.vowels import stand_in
from moeviz.history.svm_experts_2002.chart import (
    ERROR_BY_EXPERTS,
    ERRORS,
    EXPERT_ROOM,
    OVERFLOW,
    SOFT_ERRORS,
    SVM_LINES,
    WHAT_ROOM_CHANGES,
)
from moeviz.history.svm_experts_2002.em import train
from moeviz.history.svm_experts_2002.model import SVMMixture

SHOWN = (
    (EXPERT_ROOM, lambda: (shipped(SVMMixture),)),
    (OVERFLOW, lambda: (shipped(SVMMixture),)),
    (ERRORS, lambda: (shipped(SVMMixture),)),
    (ERROR_BY_EXPERTS, lambda: ()),
    (WHAT_ROOM_CHANGES, lambda: ()),
    (SVM_LINES, lambda: (train(), stand_in())),
    (SOFT_ERRORS, lambda: (train(),)),
)
