"""What happened to each token."""

import numpy as np
import pytest
from routed_trace import trace_of

from moeviz import RoutingTrace
from moeviz.errors import InvalidTrace
from moeviz.metrics.tokens import token_choices, token_expert, token_layer, token_routes, visible, written_text


@pytest.fixture
def by_hand() -> RoutingTrace:
    """Three tokens, two of them 'the'; layers 1 (3 experts) and 4 (2 experts), top-2.

    Layer 1: 'the' to 2 (0.7) and 0 (0.3); 'the' to 1 (0.6) and 2 (0.4); 'end' dropped.
    Layer 4: 'the' to 0 alone (0.9); 'the' to 1 (0.8) and 0 (0.2); 'end' to 1 (0.5) and 0 (0.5).
    """
    return trace_of(
        [[[2, 0], [1, 2], [-1, -1]], [[0, -1], [1, 0], [1, 0]]],
        (3, 2),
        layers=(1, 4),
        weights=[[[0.7, 0.3], [0.6, 0.4], [0, 0]], [[0.9, 0], [0.8, 0.2], [0.5, 0.5]]],
        text=["the", "the", "end"],
        phase=["prompt"] * 2 + ["generated"],
    )


def test_token_layer_has_the_first_choice_of_every_token_at_every_layer(by_hand):
    frame = token_layer(by_hand)
    assert frame["token"].tolist() == [0, 0, 1, 1, 2, 2]
    assert frame["layer"].tolist() == [1, 4] * 3
    assert frame["expert"].tolist() == [2, 0, 1, 1, -1, 1]
    assert frame["weight"].tolist() == pytest.approx([0.7, 0.9, 0.6, 0.8, 0, 0.5])
    assert frame["num_experts"].tolist() == [3, 2] * 3
    assert frame["text"].tolist() == ["the"] * 4 + ["end"] * 2


def test_token_choices_has_every_filled_slot_and_a_row_where_there_is_none(by_hand):
    frame = token_choices(by_hand)
    assert frame["token"].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert frame["layer"].tolist() == [1, 1, 4, 1, 1, 4, 4, 1, 4, 4]
    assert frame["slot"].tolist() == [0, 1, 0, 0, 1, 0, 1, 0, 0, 1]
    assert frame["expert"].tolist() == [2, 0, 0, 1, 2, 1, 0, -1, 1, 0]
    weights = pytest.approx([0.7, 0.3, 0.9, 0.6, 0.4, 0.8, 0.2, np.nan, 0.5, 0.5], nan_ok=True)
    assert frame["weight"].tolist() == weights
    assert frame["num_experts"].tolist() == [3, 3, 2, 3, 3, 2, 2, 3, 2, 2]
    assert frame["text"].tolist() == ["the"] * 7 + ["end"] * 3
    assert frame.dtypes.astype(str).to_dict() == {
        **dict.fromkeys(("token", "sequence", "position", "layer"), "int32"),
        **dict.fromkeys(("text", "phase"), "category"),
        **dict.fromkeys(("num_experts", "slot", "expert"), "int16"),
        "weight": "float32",
        "ordered": "bool",
    }


def test_token_expert_has_a_row_for_every_expert_chosen_or_not(by_hand):
    frame = token_expert(by_hand.select(layers=[1]))
    assert frame["expert"].tolist() == [0, 1, 2] * 3
    assert frame["slot"].tolist() == [1, -1, 0, -1, 0, 1, -1, -1, -1]
    assert frame["weight"].tolist() == pytest.approx([0.3, 0, 0.7, 0, 0.6, 0.4, 0, 0, 0])


def test_without_weights_only_the_choices_are_told(ids_only_trace):
    frame = token_expert(ids_only_trace.select(layers=[2]))
    assert frame["weight"].isna().all()
    assert (frame["slot"] >= 0).sum() == 32 * 2
    assert token_layer(ids_only_trace)["weight"].isna().all()
    assert token_choices(ids_only_trace)["weight"].isna().all()


def test_token_expert_refuses_several_layers(by_hand):
    with pytest.raises(InvalidTrace, match=r"\b2\b"):
        token_expert(by_hand)


def test_a_route_lists_the_filled_slots_of_one_token_layer_by_layer(by_hand):
    frame = token_routes(by_hand.select(tokens=slice(0, 1)))
    assert frame["layer"].tolist() == [1, 1, 4]
    assert frame["slot"].tolist() == [0, 1, 0]
    assert frame["expert"].tolist() == [2, 0, 0]
    assert frame["weight"].tolist() == pytest.approx([0.7, 0.3, 0.9])


def test_a_route_is_of_one_token(by_hand):
    with pytest.raises(InvalidTrace, match=r"\b3\b"):
        token_routes(by_hand)


def test_frames_of_no_tokens_are_empty(trace):
    empty = trace.select(layers=[0], tokens=slice(0, 0))
    assert len(token_layer(empty)) == len(token_choices(empty)) == len(token_expert(empty)) == 0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("router", "router"),
        (" the cat ", "␣the cat␣"),
        ("   ", "␣␣␣"),
        ("a\n\tb\r", "a⏎⇥b␍"),
        ("\u202eevil", "⟨U+202E⟩evil"),
        ("a\u200bb", "a⟨U+200B⟩b"),
        ("\x1b[31m", "⟨U+001B⟩[31m"),
        ("\u0301", "◌\u0301"),
        ("", "∅"),
        ("⟨é 1/2⟩", "⟨é 1/2⟩"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("語", "語"),
    ],
)
def test_what_would_vanish_or_reorder_is_made_visible(text, shown):
    assert visible(text) == shown


def written(texts, phase=None, generated=0, sequence=None, positions=None):
    count = len(texts)
    phases = ["prompt"] * (count - generated) + ["generated"] * generated
    sequence, positions = np.array(sequence or [0] * count), np.array(positions or range(count))
    given = {"sequence": sequence, "position": positions, "text": texts, "phase": phases}
    return written_text(trace_of(np.zeros((1, count, 1)), 2, **given), phase)


def test_the_text_is_as_it_was_written_prompt_and_generated_told_apart():
    texts = ["<s>", "The", " sea\n", " is", " calm"]
    assert written(texts) == "The sea\n is calm"
    assert written(texts, "prompt", generated=2) == "The sea\n"
    assert written(texts, "generated", generated=2) == " is calm"
    assert written(texts, "generated") == ""


def test_a_split_character_is_one_where_all_its_parts_are_there_and_else_is_said_to_be_a_part():
    parts = ["⟨é 1/2⟩", "⟨é 2/2⟩"]
    assert written(["caf", *parts, "!"]) == "café!"
    assert written(["caf", *parts], "prompt", generated=1) == "caf⟨é 1/2⟩"
    assert written(["caf", *parts], "generated", generated=1) == "⟨é 2/2⟩"
    assert written(["⟨é 1/2⟩", "⟨è 2/2⟩", "⟨<0xF0>⟩"]) == "⟨é 1/2⟩⟨è 2/2⟩⟨<0xF0>⟩"


def test_texts_are_a_line_apart_and_a_special_token_that_was_written_stays():
    assert (
        written(["<s>", "a", "<s>", "b</s>", "</s>"], sequence=[0, 0, 1, 1, 1], positions=[0, 1, 0, 1, 2])
        == "a\nb</s></s>"
    )
