"""A trace as a page to click through, in a notebook or a browser: `moeviz.view`.

>>> from moeviz.testing import sample_trace
>>> view(sample_trace(tokens=20))
<View of 20 tokens through 'sample': open it in a notebook, or .save("view.html")>
"""

from collections.abc import Sequence
from typing import Any

from moeviz.errors import MoevizError
from moeviz.report.view import View
from moeviz.routing_trace import RoutingTrace


def view(model_or_trace: Any, text: str | Sequence[str] | None = None, **options: Any) -> View:
    """Show which experts each token goes to: a strip of tokens and a map of tokens and layers, linked and clickable.

    model_or_trace  a `RoutingTrace`, or a model in any form that `moeviz.trace` takes.
    text            what the model reads: one text, or several; not with a trace, which has its own.
    options         of `moeviz.trace`, such as `max_new_tokens=40`, or `tokenizer=` for a transformers model.

    A notebook displays the returned `View`; elsewhere, `view(…).save("view.html")` writes a page that any browser
    opens, without a server or a network. It shows up to 256 tokens, and fewer if a model has more than 64 MoE layers;
    `trace.select` gives a part of a longer text.

    Raises `MoevizError` for a model without a text, for a trace with one, for a trace that is empty or too large to
    draw, and if the extra `notebook` is not installed; and what `moeviz.trace` raises.

    >>> import moeviz
    >>> page = moeviz.view("embedded", "Il fait froid.")  # a notebook displays it
    >>> page.save("froid.html")  # doctest: +SKIP
    """
    if isinstance(model_or_trace, RoutingTrace):
        if text is not None or options:
            given = "a text" if text is not None else ", ".join(options)
            raise MoevizError(
                f"A trace needs no other argument, and got {given}. Give a model and a text, or only the trace."
            )
        return View(model_or_trace)
    if text is None:
        raise MoevizError(
            f"A view of {_short(model_or_trace)} needs a text for the model to read: "
            'moeviz.view(model, "Il fait froid."). For a trace in a file: moeviz.view(moeviz.read_trace(path)).'
        )
    from moeviz.capture.trace import trace  # with torch, which a trace by itself does not need

    return View(trace(model_or_trace, text, **options))


def _short(model: Any) -> str:
    return repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
