"""Everything that is claimed of a trace is counted again by a second implementation, which never reads a sentence.

A thousand traces: `MOEVIZ_TRACES=1000 pytest tests/metrics/test_claims.py`. The sentences of the examples that ship
stand in `tests/golden/sentences.txt`, and nowhere else: `pytest --update-golden tests/metrics/test_claims.py` writes
them anew.
"""

import ast
import os
import pickle
from collections import Counter
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from types import NoneType
from typing import get_args, get_origin, get_type_hints

import numpy as np
import pytest
import recount
from claims_of_traces import claims_of, of_findings
from random_traces import random_trace
from recount import HANDFUL, Refuted, Seen

import moeviz.analyses.pruning.captions
import moeviz.serving.captions  # noqa: F401, whose wordings are looked up
from moeviz.claims import WORDINGS, Claim
from moeviz.embedded.recorded_routing import example_trace, reference_routing
from moeviz.metrics import captions as of_metrics
from moeviz.metrics import findings as found_in
from moeviz.metrics.significance import HANDFUL as OURS
from moeviz.routing_trace import NO_EXPERT, NOT_RECORDED
from moeviz.testing import sample_trace
from moeviz.training.recorded import captions as of_training

TRACES, CASES = int(os.environ.get("MOEVIZ_TRACES", "64")), 8
EDGES = (
    "example",
    "400 tokens",
    "one token",
    "one expert",
    "7 tokens",
    "256 experts",
    "empty",
    "not recorded",
    "one kind",
)
# Of one token or one expert nothing else may be claimed: why, what is counted exactly, and where the memory goes.
OF_LITTLE = "few_counted few_at_busiest one_choice too_short takes_everything word_is_rare choices_moved all_held "
OF_LITTLE += (
    "less_than_a_token other_texts bits_of_labels busiest_of_several sets_of_several changed_choices busiest_device"
)
GOLDEN = Path(__file__).parents[1] / "golden" / "sentences.txt"


def refuted(again) -> str:
    """Why a second count refutes a claim; empty if it does not."""
    try:
        again()
    except (Refuted, LookupError, ValueError, ZeroDivisionError, TypeError) as why:
        return f"{type(why).__name__}: {why}"
    return ""


@cache
def claims_of_random(seed: int) -> list:
    """All that is claimed of a random trace, which several tests ask for."""
    return list(claims_of(random_trace(seed), seed))


def shipped():
    """Traces that ship, and traces at the edges: one token, one expert, few tokens, many experts."""
    yield from (example_trace(), reference_routing().select(tokens=slice(0, 400)))
    yield from (sample_trace(tokens=1), sample_trace(experts=1, top_k=1), sample_trace(tokens=7, experts=64))
    yield sample_trace(layers=60 if TRACES >= 1_000 else 2, tokens=64, experts=256, top_k=8)
    plain = replace(sample_trace(tokens=40), logits=None)
    for gone in (NO_EXPERT, NOT_RECORDED):
        rows = np.random.default_rng(0).random(plain.experts.shape[:2]) < 0.5
        experts, weights = plain.experts.copy(), plain.weights.copy()
        experts[rows], weights[rows] = gone, 0
        yield replace(plain, experts=experts, weights=weights)
    yield replace(plain, tokens=plain.tokens.assign(label="a"))


@pytest.mark.parametrize("case", range(CASES))
def test_no_claim_about_a_random_trace_is_refuted(case):
    wrong, made = [], 0
    for seed in range(case, TRACES, CASES):
        for _, again in claims_of_random(seed):
            made += 1
            wrong += [f"seed {seed}: {why}"] if (why := refuted(again)) else []
    assert made > TRACES // CASES
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("trace", list(shipped()), ids=EDGES)
def test_no_claim_about_a_trace_that_ships_or_one_at_the_edges_is_refuted(trace):
    assert not [why for _, again in claims_of(trace) if (why := refuted(again))]


def test_of_one_token_or_one_expert_nothing_is_claimed_but_why():
    several = sample_trace(layers=2, tokens=1, experts=256, top_k=8)  # one token has eight choices
    for trace in (sample_trace(tokens=1), sample_trace(experts=1, top_k=1), several):
        names = {claim.name for claim, _ in claims_of(trace)}
        assert names <= {*OF_LITTLE.split()} and names & {"few_counted", "few_at_busiest", "one_choice"}
    assert not {claim.name for claim, _ in claims_of(sample_trace(tokens=60))} <= {*OF_LITTLE.split()}, "the control"


def mistaken(value):
    """Another value."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 1.5 + 3
    if isinstance(value, str):
        return f"{value}?"
    if isinstance(value, tuple) and value:
        parts = [mistaken(value[0]), *value[1:]]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return (0, 0, 0.5) if value is None else (value, 0)


def test_a_mistake_in_any_value_of_any_claim_is_noticed():
    """The control: each value of each claim is made another one, and the second count must refute it."""
    noticed, tries = Counter(), Counter()
    for seed in range(TRACES):
        for claim, again in claims_of_random(seed):
            for name, value in claim.values.items():
                key = claim.name, name
                if tries[key] < 5 and value == value:
                    wrong = Claim("", claim.name, dict(claim.values) | {name: mistaken(value)})
                    tries[key] += 1
                    noticed[key] += bool(refuted(lambda wrong=wrong, again=again: again.func(wrong, *again.args[1:])))
    assert len(tries) > 150
    wrong = {key: n for key, n in tries.items() if noticed[key] < 0.75 * n}  # of another layer the same may be so
    assert not wrong


def test_the_second_count_shares_nothing_with_the_first():
    nodes = [*ast.walk(ast.parse(Path(recount.__file__).read_text("utf-8")))]
    names = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert not {name for name in names if name.startswith("moeviz") or name == "re"}
    assert HANDFUL == OURS


def test_if_any_choice_is_counted_the_second_count_refutes_what_is_found(monkeypatch):
    """The control of what testers saw: claims that count any slot, beside a strip of first choices."""
    traces = [(seed, random_trace(seed)) for seed in range(100)]
    traces = [(seed, trace) for seed, trace in traces if trace.ordered and trace.model.top_k > 1]
    monkeypatch.setattr(found_in, "_counted", lambda trace, row, _: trace.experts[row])
    found = (pair for seed, trace in traces for pair in of_findings(trace, Seen(trace), seed))
    assert sum(bool(refuted(partial(recount.recount, *claimed))) for claimed in found) > 3


# Claims about more than one trace, or about none, by the tests that recount them.
ELSEWHERE = {
    "metrics/test_metrics_contrast.py": "contrast no_contrast steering",
    "metrics/test_metrics_tune_targets.py": "tune_targets",
    "metrics/test_metrics_expert_names.py": "no_name name_that_holds names_that_hold names_that_predict",
    "metrics/test_metrics_paths.py": "paths_beyond path_that_holds map_of_experts",
    "metrics/test_metrics_routes.py": "routes_alike route_of_token route_ranks route_certainty route_stakes "
    "route_of_kind blind_spots",
    "metrics/test_metrics_direct_attribution.py": "direct_parts",
    "metrics/test_metrics_expert_table.py": "often_and_added added_and_missed expert_note odd_expert breadths "
    "names_by_chance committee writers dead_experts",
    "formats/test_expert_labels.py": "labels_of_others",
    "capture/test_witness.py": "by_token_id",
    "analyses/test_bits.py": "unreached super_experts cost_of_bits",
    "analyses/test_pruning_curve.py": "texts_of_study mean_output_instead cost_of_cut own_choice cost_in_all",
    "serving/test_decision.py": "few_tokens few_windows few_choices split_memory draft_unknown draft_needs drift "
    "device_pairs",
    "serving/test_serving.py": "most_used_of_counts model_fits model_does_not_fit",
    "serving/test_serving_plans.py": "slots_changed made_from_all layers_on_gpu layers_planned plan_judged "
    "plan_not_judged kept_whole kept_whole_unknown most_used_half",
    "serving/test_staleness.py": "stale_plan few_choices_for_staleness layers_judged fresh_plan_fits texts_in_both",
    "training/test_training_over_steps.py": "*",
}


def test_each_claim_is_counted_again_here_or_by_a_named_test():
    of_runs = {name for name, make in WORDINGS.items() if make.__module__ == of_training.__name__}
    named = {name for names in ELSEWHERE.values() for name in names.split()} - {"*"}
    assert {*WORDINGS} - of_runs == {*recount.COUNTS} | named
    assert not named & {*recount.COUNTS}
    tests = Path(__file__).parents[1]
    missing = [(file, name) for file, names in ELSEWHERE.items() for name in names.split()
               if name not in (tests / file).read_text("utf-8")]  # fmt: skip
    assert not missing


def values(hint, turn):
    """A made-up value of a type: another one each turn."""
    options = get_args(hint)
    if NoneType in options:
        return None if turn % 3 == 2 else values(next(one for one in options if one is not NoneType), turn)
    if hasattr(hint, "_fields"):
        return hint(*(values(of, turn) for of in get_type_hints(hint).values()))
    if get_origin(hint) is tuple:
        return tuple(values(of, turn) for of in options)
    if options:  # a sequence
        return tuple(values(options[0], turn + more) for more in range((3, 1, 2)[turn % 3]))
    made = {int: (2, 1, 4096), float: (1.25, 0.004, 0.5), bool: (True, False, True), str: ("SQL", "a\nb", "<b>")}
    return made[hint][turn % 3]


def filled_in(name, turn):
    hints = get_type_hints(WORDINGS[name].__wrapped__)
    return WORDINGS[name](**{of: values(hint, turn) for of, hint in hints.items() if of != "return"})


@pytest.mark.parametrize("name", WORDINGS)
def test_each_wording_can_be_filled_in(name):
    for turn in range(3):
        claim = filled_in(name, turn)
        assert claim.name == name and "nan" not in claim and "None" not in claim.replace("None of", "")
        assert claim or name in ("nothing_more", "expert_note")


def test_a_claim_is_frozen_and_survives_a_pickle():
    claim = of_metrics.widest_load(np.int32(3), np.float64(4.0), np.int16(5), 6)
    assert dict(claim.values) == {"layer": 3, "times": 4.0, "twice": 5, "layers": 6} and type(claim["layer"]) is int
    again = pickle.loads(pickle.dumps(claim))
    assert (again, again.name, again.values) == (claim, claim.name, claim.values)
    with pytest.raises(AttributeError):
        claim.name = "another"
    with pytest.raises(TypeError):
        claim.values["layer"] = 4


def test_the_sentences_are_those_of_the_golden_file(request):
    written = ["# Of the examples that ship."]
    for trace in (example_trace(), reference_routing()):
        written += [f"{claim.name}: {claim}" for claim, _ in claims_of(trace)]
    written.append("# Each wording, filled in with values that are made up.")
    written += [f"{name}: {filled_in(name, 0)}" for name in sorted(WORDINGS)]
    text = "\n".join(dict.fromkeys(line.replace("\n", "⏎") for line in written)) + "\n"
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(text, "utf-8")
    assert text == GOLDEN.read_text("utf-8"), "Read what changed, then run pytest --update-golden on this file."
