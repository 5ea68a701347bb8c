"""The names of the package, each with the module that has it: type checkers read this, and so does `moeviz._lazy`."""

from moeviz.training.callback import RoutingCallback as RoutingCallback, watch as watch
from moeviz.training.reading import read_run as read_run, read_run_file as read_run_file
from moeviz.training.recorded.rules import Rules as Rules
from moeviz.training.recorded.run import TrainingRun as TrainingRun
from moeviz.training.routing_health import RoutingHealth as RoutingHealth
