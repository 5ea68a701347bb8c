"""Claims: what a caption, a finding or a verdict states, as values, next to the sentence that states it."""

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from types import MappingProxyType
from typing import Any, ParamSpec

import numpy as np

P = ParamSpec("P")
WORDINGS: dict[str, Callable[..., "Claim"]] = {}  # of all rooms, by the names of the claims


class Claim(str):
    """A sentence that knows what it states: the name of the claim, and the values that its wording was filled with.

    Tests recount the values from the arrays and never read the sentence, so its words may change at any time. It may
    quote strangers' text as it is: it is for a text node, never for HTML or Markdown.
    """

    name: str
    values: Mapping[str, Any]

    def __new__(cls, sentence: str, name: str, values: Mapping[str, Any]) -> "Claim":
        """Make a claim; wordings do this, by `claim`."""
        made = super().__new__(cls, sentence)
        made.__dict__.update(name=name, values=MappingProxyType(dict(values)))
        return made

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"A claim is frozen, so its {name} stays as it is. Make another claim.")

    def __reduce__(self) -> tuple[Any, ...]:
        return Claim, (str(self), self.name, dict(self.values))

    def __getitem__(self, name: Any) -> Any:
        """Return a value by its name or, by a number, letters of the sentence."""
        return self.values[name] if isinstance(name, str) else super().__getitem__(name)


def claim(wording: Callable[P, str]) -> Callable[P, Claim]:
    """Turn a function that words a claim into one that makes it. Its parameters are the claim's values.

    NumPy's scalars become Python's numbers.

    >>> @claim
    ... def busiest(layer: int, times: float) -> str:
    ...     return f"Layer {layer} is the busiest: {times:.1f} times the mean."
    >>> found = busiest(3, times=2.04)
    >>> print(found, found.name, dict(found.values))
    Layer 3 is the busiest: 2.0 times the mean. busiest {'layer': 3, 'times': 2.04}
    """
    values_of = signature(wording)

    @wraps(wording)
    def make(*args: P.args, **values: P.kwargs) -> Claim:
        bound = values_of.bind(*args, **values)
        given = bound.arguments.items()
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in given}
        return Claim(wording(**plain), wording.__name__, plain)  # type: ignore[call-arg]

    if wording.__module__ != __name__:  # not those of the example above
        assert wording.__name__ not in WORDINGS, f"two claims are called {wording.__name__}"
        WORDINGS[wording.__name__] = make
    return make
