"""Checks of annotations while tests run: beartype makes the check of a function once, when it is first called.

jaxtyping asks for a function's check whenever the function is defined, whether or not a test ever calls it. What is
defined within another function, as a hook is, would have its check written and compiled at every call of that one: a
third of all the time of some tests.
"""

from collections.abc import Callable
from typing import Any

import torch
from beartype import beartype

_made: dict[Any, Callable[..., Any]] = {}


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype(function)`, made at its first call."""
    made: list[Callable[..., Any]] = []

    def check(*arguments: Any, **named: Any) -> Any:
        if not made:
            if torch.compiler.is_compiling():  # it cannot trace how a check is made
                return function(*arguments, **named)
            made.append(check_of(function))
        return made[0](*arguments, **named)

    return check


def check_of(function: Callable[..., Any]) -> Callable[..., Any]:
    """`beartype(function)`, now.

    What jaxtyping hands over is a stand-in that has the signature and does nothing, so the check of one stands for
    that of another which is called the same and has the same signature.
    """
    annotations = tuple(function.__annotations__.items())
    if "<locals>" not in function.__qualname__ or function.__defaults__ or function.__kwdefaults__:
        return beartype(function)
    if "jaxtyping." in repr(annotations):  # a shape is a new class, equal to no other, each time that it is written
        return beartype(function)
    called = (function.__module__, function.__qualname__, function.__code__, annotations)
    try:
        return _made[called]
    except KeyError:
        return _made.setdefault(called, beartype(function))
    except TypeError:  # an annotation that cannot be a key, as ParamSpec's *args
        return beartype(function)
