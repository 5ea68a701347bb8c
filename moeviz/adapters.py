"""Adapters for routers that moeviz does not know: your own reader of what such a router answers.

An adapter is code. It is registered in Python, or comes from a file that the command line names (`--adapter FILE.py`),
and from nowhere else: no link, no upload and no checkpoint brings one. A model that it reads is checked, as every model
is, against what its experts receive before its first trace.
"""

import runpy
from collections.abc import Callable
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from moeviz.errors import CaptureError
from moeviz.text import cut, quoted

if TYPE_CHECKING:
    from torch import nn

__all__ = ["register", "run_file"]


def register(
    router: "type[nn.Module] | str",
    read: Callable[..., tuple[Any, ...]],
    *,
    write: Callable[..., tuple[Any, ...]] | None = None,
    experts: tuple[str, ...] = ("experts",),
    num_experts: "Callable[[nn.Module], int] | None" = None,
    top_k: "Callable[[nn.Module], int] | None" = None,
    factor: "Callable[[nn.Module], float] | None" = None,
    caution: str = "",
) -> None:
    """Have moeviz record the routers of a class, in every model that it opens from now on.

    router       the class of the router, or its name.
    read         called with the router, the arguments of its forward and what it answered; returns (logits, weights,
                 expert ids): logits (T, E) or None, weights and ids (T, K), for T tokens.
    write        called with the router, its answer, weights and ids (T, K); returns an answer that decides this, so
                 that the routing can be changed. Without it the router is recorded and nothing can be changed.
    experts      names of the modules with the experts' weights, next to the router or in it.
    num_experts  of a router; default: its, its experts' or its block's attribute `num_experts`.
    top_k        of a router; default: its or its block's attribute `top_k`.
    factor       of the block that holds the router: by what it multiplies the sum of its experts.
    caution      what a person must know before trusting the trace, in a sentence.

    Raises `CaptureError` for a router that moeviz reads by an adapter of its own, and for a `read` that is not a
    function.

    >>> register("MyRouter", lambda router, given, answer: (None, answer["weights"], answer["experts"]))
    """
    from moeviz.capture.routers.router_adapters import BUILT_IN, ROUTER_ADAPTERS, RouterAdapter

    name = router if isinstance(router, str) else router.__name__
    if name in BUILT_IN:
        raise CaptureError(f"moeviz reads {quoted(name)} by an adapter of its own. Give your class another name.")
    if not callable(read) or not (write is None or callable(write)):
        raise CaptureError(f"The adapter of {quoted(name)} needs a function that reads the router's answer.")

    def call(function: Callable[..., tuple[Any, ...]], *given: Any) -> tuple[Any, ...]:
        try:
            return function(*given)
        except Exception as error:
            raise CaptureError(f"The adapter of {quoted(name)} raised {_name_error(error)}") from error

    ways: dict[str, Any] = {"top_k": top_k, "num_experts": num_experts, "factor": factor}
    ROUTER_ADAPTERS[name] = RouterAdapter(
        "an adapter of your own",
        lambda *given: call(read, *given),
        None if write is None else lambda *given: call(write, *given),
        experts=tuple(experts),
        caution=caution,
        **{key: way for key, way in ways.items() if way is not None},
    )


def run_file(path: str) -> None:
    """Run a Python file that registers adapters; it may register classes of models with transformers too.

    Raises `CaptureError` for a file that cannot be read, that raises, or that registers no adapter.
    """
    from moeviz.capture.routers.router_adapters import ROUTER_ADAPTERS

    before = dict(ROUTER_ADAPTERS)
    try:
        runpy.run_path(path, run_name="moeviz_adapter")
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # a stranger to us, `sys.exit` included
        raise CaptureError(f"The adapter {quoted(path)} raised {_name_error(error)}") from error
    if before == ROUTER_ADAPTERS:
        raise CaptureError(
            f"{quoted(path)} registers no adapter. Call moeviz.adapters.register in it, with the class of the router "
            "and a function that reads its answer."
        )


def _name_error(error: BaseException) -> str:
    """Return an error as the end of a sentence: its class, its line, and where it was raised."""
    line = cut(" ".join(str(error).split()), 200).rstrip(".")
    places = extract_tb(error.__traceback__)
    place = f" (line {places[-1].lineno} of {places[-1].filename})" if places else ""
    return f"{type(error).__name__}: {line}{place}."
