"""Annotations are checked while tests run, of nested functions too, whose check is made once."""

import checked_calls
import numpy as np
import pytest
from beartype.roar import BeartypeException
from checked_calls import checked
from jaxtyping import Float32, TypeCheckError, jaxtyped

from moeviz.routing_trace import normalised_scores

WRONG = 10**6


def defined(kind):
    """A nested function, as jaxtyping's hook defines it: anew at each call."""

    @jaxtyped(typechecker=checked)
    def nested(value: kind) -> kind:
        return None if value is WRONG else value

    return nested


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setattr(checked_calls, "_made", {})
    return checked_calls._made


def test_the_library_is_checked():
    with pytest.raises(TypeCheckError, match="logits"):
        normalised_scores(np.zeros((2, 3), np.float64), "softmax")


def test_a_nested_function_is_checked_though_its_check_is_made_once(made):
    nested = [defined(int) for _ in range(3)]
    assert len(made) == 2, "of its arguments, and of what it returns"
    for one in nested:
        assert one(3) == 3
        with pytest.raises(TypeCheckError, match="parameters"):
            one("three")
        with pytest.raises(TypeCheckError, match="return value"):
            one(WRONG)


def test_the_same_function_with_another_annotation_has_a_check_of_its_own(made):
    defined(int)
    assert defined(str)("three") == "three" and len(made) == 4
    with pytest.raises(TypeCheckError, match="parameters"):
        defined(str)(3)


def test_shapes_of_a_nested_function_are_checked_and_nothing_is_kept(made):
    for size, wrong in (((2, 3), (3, 2)), ((3, 2), (2, 3))):
        nested = defined(Float32[np.ndarray, " ".join(map(str, size))])
        assert nested(np.zeros(size, np.float32)).shape == size
        with pytest.raises(TypeCheckError, match="parameters"):
            nested(np.zeros(wrong, np.float32))
    assert not made


def test_what_cannot_be_told_apart_is_checked_anew(made):
    class Unhashable:
        __hash__ = None

    def with_default(value: int = 3) -> None:
        pass

    def odd(value: int) -> None:
        pass

    odd.__annotations__["more"] = Unhashable()
    for function in (with_default, odd):
        with pytest.raises(BeartypeException):
            checked(function)("three")
    assert not made
