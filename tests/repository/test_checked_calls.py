"""Annotations are checked while tests run, of nested functions too, whose check is made once."""

import importlib
import inspect
import pkgutil
from dataclasses import dataclass
from types import FunctionType

import checked_calls
import numpy as np
import pytest
from checked_calls import check_of, checked
from jaxtyping import Float32, TypeCheckError

import models.training
import moeviz
from moeviz.routing_trace import normalised_scores

WRONG = 10**6
MODULES = [
    each.name
    for package in (moeviz, models.training)
    for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not each.name.endswith("__main__")
]


def defined(kind):
    """A nested function, as jaxtyping's hook defines it: anew at each call."""

    @checked
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
    for one in [defined(int) for _ in range(3)]:
        assert one(3) == 3
        with pytest.raises(TypeCheckError, match="parameters"):
            one("three")
        with pytest.raises(TypeCheckError, match="return value"):
            one(WRONG)
    assert len(made) == 1


def test_the_same_function_with_another_annotation_has_a_check_of_its_own(made):
    assert (defined(int)(3), defined(str)("three")) == (3, "three") and len(made) == 2
    with pytest.raises(TypeCheckError, match="parameters"):
        defined(str)(3)


def test_what_is_never_called_has_no_check_made(made):
    defined(int)
    assert not made


@pytest.mark.table("moeviz", "models")
def test_the_check_of_every_function_can_be_made():
    """Of those too that no test calls: an annotation that nothing can check is found here."""
    found = set()
    for name in MODULES:
        module = importlib.import_module(name)
        classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == name]
        for each in [*vars(module).values(), *(part for kind in classes for part in vars(kind).values())]:
            of = each.fget if isinstance(each, property) else each
            of = of.__func__ if isinstance(of, classmethod | staticmethod) else of
            if isinstance(of, FunctionType) and of.__module__ == name and (own := inspect.unwrap(of)) not in found:
                found.add(own)
                check_of(own)
    assert len(found) > 1_000


def test_shapes_of_a_nested_function_are_checked_and_nothing_is_kept(made):
    for size, wrong in (((2, 3), (3, 2)), ((3, 2), (2, 3))):
        nested = defined(Float32[np.ndarray, " ".join(map(str, size))])
        assert nested(np.zeros(size, np.float32)).shape == size
        with pytest.raises(TypeCheckError, match="parameters"):
            nested(np.zeros(wrong, np.float32))
    assert not made


def test_axes_of_one_name_have_one_size_in_a_call_and_another_in_the_next():
    vector = Float32[np.ndarray, "x"]

    @checked
    def pair(one: vector, other: vector) -> vector:
        return one if len(one) < 3 else one[:1]

    two, three = np.zeros(2, np.float32), np.zeros(3, np.float32)
    assert pair(two, other=two) is two
    with pytest.raises(TypeCheckError, match=r"(?s)parameters of .*other.*x=2"):
        pair(two, three)
    with pytest.raises(TypeCheckError, match=r"(?s)return value of .*x=3"):
        pair(three, three)
    assert pair(two, two) is two


def test_methods_properties_and_what_a_data_class_is_made_of_are_checked():
    @checked
    @dataclass
    class Made:
        size: int

        @checked
        @classmethod
        def of(cls, *sizes: int, **more: int) -> "int":
            return len(sizes)

        @checked
        @property
        def wrong(self) -> str:
            return self.size

    assert Made(3).size == 3 and Made.of(1, 2, a=3) == 2
    for call in (lambda: Made("3"), lambda: Made.of("1"), lambda: Made.of(a="1"), lambda: Made(3).wrong):
        with pytest.raises(TypeCheckError):
            call()
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'size'"):
        Made()


def test_what_cannot_be_told_apart_is_checked_anew(made):
    class Unhashable:
        __hash__ = None

    def with_default(value: int = 3) -> None:
        pass

    def odd(value: int) -> None:
        pass

    odd.__annotations__["more"] = Unhashable()
    for function in (with_default, odd):
        with pytest.raises(TypeCheckError):
            checked(function)("three")
    assert not made
