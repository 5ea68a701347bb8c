"""Checks of annotations while tests run: of shapes by jaxtyping, of everything else by beartype.

jaxtyping's import hook puts `@jaxtyping.jaxtyped` on every function of the library. Its place is taken by `checked`
here, which finds the same and costs less: jaxtyping's binds the arguments by their signature at every call, and
writes and compiles two checks wherever a function is defined, whether or not a test ever calls it. What is defined
within another function, as a hook is, would have them written at every call of that one.
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable
from functools import partial, wraps
from inspect import CO_VARARGS, CO_VARKEYWORDS
from types import CodeType, FunctionType
from typing import Any, NamedTuple, get_type_hints

import jaxtyping
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation

AXES = jaxtyping.jaxtyped  # its own, which also begins and ends what the names of axes stand for
TAKES = CO_VARARGS | CO_VARKEYWORDS
NOTHING = (lambda: None).__code__
ANSWER = (lambda answer: answer).__code__
_made: dict[Any, "Check"] = {}


class Check(NamedTuple):
    """What looks at the arguments of a call, what looks at its answer, and whether any of them has a shape."""

    given: Callable[..., None]
    answer: Callable[[Any], Any] | None
    has_shapes: bool


def install() -> None:
    """For all modules that jaxtyping's hook will import."""
    jaxtyping.jaxtyped = checked


def checked(function: Any = None, *, typechecker: Any = None) -> Any:
    """A function, method, property or data class, whose check is made at its first call."""
    if function is None:
        return partial(checked, typechecker=typechecker)
    if isinstance(function, type):
        if dataclasses.is_dataclass(function) and not hasattr(function.__init__, "__wrapped__"):
            function.__init__ = checked(function.__init__)
        return function
    if isinstance(function, classmethod | staticmethod):
        return type(function)(checked(function.__func__))
    if isinstance(function, property):
        return property(*(part and checked(part) for part in (function.fget, function.fset, function.fdel)))
    return _checked(function)


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    check: Check | None = None

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal check
        if check is None:
            if torch.compiler.is_compiling():  # it cannot trace how a check is made
                return function(*arguments, **named)
            check = check_of(function)
        if not check.has_shapes:
            return _call(function, check, arguments, named)
        with AXES("context"):
            return _call(function, check, arguments, named)

    return call


def _call(function: Callable[..., Any], check: Check, arguments: tuple, named: dict[str, Any]) -> Any:
    try:
        check.given(*arguments, **named)
    except BeartypeCallHintViolation as error:
        raise wrong("parameters of {} are", function, error) from error
    answer = function(*arguments, **named)
    if check.answer is not None:
        try:
            check.answer(answer)
        except BeartypeCallHintViolation as error:
            raise wrong("return value of {} is", function, error) from error
    return answer


def wrong(what: str, function: Callable[..., Any], error: Exception) -> jaxtyping.TypeCheckError:
    """Which part of which function, and what the axes are so far."""
    with contextlib.redirect_stdout(io.StringIO()) as axes:
        jaxtyping.print_bindings()
    what = what.format(f"{function.__module__}.{function.__qualname__}")
    return jaxtyping.TypeCheckError(f"The {what} not as annotated: {error} {axes.getvalue()}".strip())


def check_of(function: Callable[..., Any]) -> Check:
    """The check of a function, now.

    What beartype looks at is a stand-in that has the signature and does nothing, so the check of a nested function
    stands for that of the next one that is made by the same line with the same annotations.
    """
    annotations = tuple(function.__annotations__.items())
    if "<locals>" not in function.__qualname__ or function.__defaults__ or function.__kwdefaults__:
        return _check_of(function)
    if "jaxtyping." in repr(annotations):  # a shape is a new class, equal to no other, each time that it is written
        return _check_of(function)
    called = (function.__module__, function.__qualname__, function.__code__, annotations)
    try:
        return _made[called]
    except KeyError:
        return _made.setdefault(called, _check_of(function))
    except TypeError:  # an annotation that cannot be a key, as ParamSpec's *args
        return _check_of(function)


def _check_of(function: Callable[..., Any]) -> Check:
    hints = {name: _hint(function, hint) for name, hint in function.__annotations__.items()}
    answer = {"return": hints.pop("return")} if "return" in hints else {}
    given = stand_in(function, signature_of(function.__code__), hints)
    given.__defaults__, given.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    said = beartype(stand_in(function, ANSWER, answer)) if answer else None
    return Check(beartype(given), said, "jaxtyping." in repr((hints, answer)))


def signature_of(code: CodeType) -> CodeType:
    """Code that takes the same arguments, and does nothing."""
    count = code.co_argcount + code.co_kwonlyargcount + (code.co_flags & TAKES).bit_count()
    return NOTHING.replace(
        co_name=code.co_name,
        co_qualname=code.co_qualname,
        co_argcount=code.co_argcount,
        co_posonlyargcount=code.co_posonlyargcount,
        co_kwonlyargcount=code.co_kwonlyargcount,
        co_varnames=code.co_varnames[:count],
        co_nlocals=count,
        co_flags=NOTHING.co_flags | code.co_flags & TAKES,
    )


def stand_in(function: Callable[..., Any], code: CodeType, hints: dict[str, Any]) -> FunctionType:
    """A function of that code and those annotations, which is called as another one is and lies where that one does."""
    made = FunctionType(code, function.__globals__, function.__name__)
    made.__module__, made.__qualname__, made.__annotations__ = function.__module__, function.__qualname__, hints
    return made


def _hint(function: Callable[..., Any], hint: Any) -> Any:
    """What an annotation stands for where it is written as a text; anything, if it is not known yet."""
    try:
        return get_type_hints(stand_in(function, ANSWER, {"return": hint}), include_extras=True)["return"]
    except Exception:
        return Any
