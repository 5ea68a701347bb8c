"""The parts of one choice, from a table made by hand."""

import numpy as np
import pandas as pd
import pytest

from moeviz.errors import InvalidTrace
from moeviz.metrics.direct_attribution import MOST, direct_caption, direct_parts


def table(values: dict[tuple[str, int], list[float]], slots: list[int], layer: int = 3) -> pd.DataFrame:
    """An attribution of one router, from the logits (E,) that each part wrote."""
    rows = [
        (layer, part, of, expert, slots[expert], logit, logit - np.mean(logits))
        for (part, of), logits in values.items()
        for expert, logit in enumerate(logits)
    ]
    names = ["layer", "part", "part_layer", "expert", "slot", "logit", "above_mean"]
    return pd.DataFrame(rows, columns=names).astype({"slot": "int8", "expert": "int16"})


NAMES = ("embedding", "attention of layer 0", "MLP of layer 0")
PARTS = {("embedding", -1): [5.0, 5.0, 5.0, 5.0], ("attention", 0): [0.0, 4.0, 2.0, 2.0], ("MLP", 0): [1, -1, 0, 0]}


def test_each_part_has_a_row_for_each_choice_in_the_order_of_the_stream():
    """Expert 1 is the first choice and expert 2 the second; the embedding gives all the same."""
    found = direct_parts(table(PARTS, [-1, 0, 1, -1]), 3)
    assert found["part"].tolist() == [
        name for name in ("embedding", "attention of layer 0", "MLP of layer 0") for _ in "ab"
    ]
    assert found["place"].tolist() == [0, 0, 1, 1, 2, 2] and found["expert"].tolist() == [1, 2] * 3
    assert found["logit"].tolist() == [5, 5, 4, 2, -1, 0]
    assert found["above_mean"].tolist() == [0, 0, 2, 0, -1, 0]
    claim = direct_caption(found)
    assert (claim["expert"], claim["above"]) == (1, 1)
    assert claim["parts"] == (("attention of layer 0", 2), ("MLP of layer 0", -1), ("embedding", 0))


def test_of_many_parts_the_least_are_one_and_nothing_is_lost():
    many = {("experts", layer): [0.0, float(layer)] for layer in range(40)}
    found = direct_parts(table(many, [1, 0]), 3)
    first = found[found["slot"] == 0]
    assert len(first) == MOST + 1 and first["part"].iloc[-1] == "16 other parts"
    assert first["part"].iloc[0] == "experts of layer 16" and first["logit"].iloc[-1] == sum(range(16))
    assert first["logit"].sum() == sum(range(40)) and found["above_mean"].sum() == pytest.approx(0)
    few = {part: many[part] for part in list(many)[: MOST + 1]}
    assert "other" not in " ".join(direct_parts(table(few, [1, 0]), 3)["part"]), "one part is no others"


def test_a_layer_without_a_choice_is_a_sentence():
    with pytest.raises(InvalidTrace, match="3 chose"):
        direct_parts(table(PARTS, [-1] * 4), 3)
    with pytest.raises(InvalidTrace, match=r"[Ll]ayer 2 .*3"):
        direct_parts(table(PARTS, [-1, 0, 1, -1]), 2)
