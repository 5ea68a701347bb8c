"""Every error that moeviz raises on purpose.

* MoevizError
  + CaptureError    the model or server gave no routing that moeviz can read
    - InvalidPrompt the prompt cannot be run on this model
    - ModelNotFound no model at that path or id, or not one that moeviz can load
  + InvalidTrace    a trace, or a file that should hold one, breaks the contract of RoutingTrace
    - NotSaid       a file of another program leaves out what a person knows
    - DamagedShard  a shard of a dataset is not what was written
  + MissingField    this trace lacks what a metric needs

`StopReading` is raised by those who call moeviz.
"""


class StopReading(Exception):
    """Raise it in a `progress` function: what reads texts then goes on with those that it has read so far.

    >>> import moeviz
    >>> def enough(done, total):
    ...     raise moeviz.errors.StopReading
    >>> trace = moeviz.trace_corpus("embedded", [("sum", "12 + 7"), ("sum", "3 + 4")], progress=enough)
    >>> int(trace.tokens["sequence"].nunique())
    1
    """


class MoevizError(Exception):
    """Base class. The message is for a person: what we got, what we need, what to do.

    >>> import moeviz
    >>> try:
    ...     moeviz.trace("embedded", "")
    ... except moeviz.MoevizError as error:
    ...     print(type(error).__name__)
    InvalidPrompt
    """


class CaptureError(MoevizError):
    """The model or server gave no routing that moeviz can read.

    >>> import moeviz
    >>> try:
    ...     moeviz.what_if("embedded", "Il fait froid.", moeviz.Mute({9: (0,)}))
    ... except moeviz.CaptureError as error:
    ...     print(type(error).__name__)
    CaptureError
    """


class InvalidPrompt(CaptureError):
    """The prompt cannot be run on this model: it is empty, or longer than the model's context.

    >>> import moeviz
    >>> try:
    ...     moeviz.trace("embedded", "")
    ... except moeviz.InvalidPrompt as error:
    ...     print(type(error).__name__)
    InvalidPrompt
    """


class ModelNotFound(CaptureError):
    """No model at that path or id, or not in a form that moeviz can load.

    >>> import moeviz
    >>> try:
    ...     moeviz.load_model("./no/such/folder")
    ... except moeviz.ModelNotFound as error:
    ...     print(type(error).__name__)
    ModelNotFound
    """


class InvalidTrace(MoevizError):
    """A trace, or a file that should hold one, breaks the contract of `RoutingTrace`.

    >>> import moeviz
    >>> try:
    ...     moeviz.read_trace("notes.txt")
    ... except moeviz.InvalidTrace as error:
    ...     print(type(error).__name__)
    InvalidTrace
    """


class NotSaid(InvalidTrace):
    """A file of another program leaves out what a person knows: `names` are the fields of `ImportOptions` to give."""

    def __init__(self, sentence: str, names: tuple[str, ...]) -> None:
        super().__init__(sentence)
        self.names = names


class DamagedShard(InvalidTrace):
    """A shard of a dataset is not what was written: `shard` is its number."""

    def __init__(self, sentence: str, shard: int) -> None:
        super().__init__(sentence)
        self.shard = shard


class MissingField(MoevizError):
    """This trace lacks a field that a metric needs.

    >>> import moeviz
    >>> from dataclasses import replace
    >>> from moeviz.metrics.confidence import router_entropy
    >>> from moeviz.testing import sample_trace
    >>> try:
    ...     router_entropy(replace(sample_trace(), logits=None))
    ... except moeviz.MissingField as error:
    ...     print(str(error).partition(",")[0])
    Router entropy needs router logits
    """
