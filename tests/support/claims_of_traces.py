"""Everything that moeviz claims of a trace, each claim with how it is counted again."""

from dataclasses import replace
from functools import partial

import numpy as np
import recount
from random_traces import of_the_same_tokens, random_trace
from recount import Seen

from moeviz.charts import NAMED
from moeviz.charts.serving import CHARTS as OF_SERVING
from moeviz.errors import MoevizError
from moeviz.metrics.balance import (
    balance_sentence,
    elsewhere_sentence,
    layer_sentence,
    load_beside_luck,
    luck_sentence,
)
from moeviz.metrics.effect import choices_moved, word_change, word_change_summary
from moeviz.metrics.expert import expert_kinds, need_sentence
from moeviz.metrics.expert_tokens import expert_summary, keeping_tokens
from moeviz.metrics.findings import findings
from moeviz.metrics.load import counts_summary, expert_load
from moeviz.metrics.multi_trace import (
    figures_of_several,
    first_choices_summary,
    multi_trace_summary,
    of_one_text,
    repetition_of_several,
)
from moeviz.metrics.who_takes import tokens_of_word, who_takes, who_takes_sentence
from moeviz.serving.budget import budget_sentence, hit_rates
from moeviz.serving.decision import placement_judgements, placement_verdict
from moeviz.serving.placement import placement_sentence, serving_placement

# Names of experts are counted again where they are tested.
CHARTS = {c.key: c for c in (*NAMED.values(), *OF_SERVING) if c.say and c.key != "expert_names_grid"}
EXPERT_BYTES = 1e6


def quietly(make):
    """A claim; None if the trace lacks what it needs, which is another sentence."""
    try:
        return make()
    except MoevizError:
        return None


def claims_of(trace, seed=0):
    """Yield claims of a trace, each with what `recount` needs besides it."""
    seen = Seen(trace)
    for claim, *context in _claims(trace, seen, seed):
        if claim:
            yield claim, partial(recount.recount, claim, *context)


def _claims(trace, seen, seed):
    yield from of_charts(trace)
    yield from of_findings(trace, seen, seed)
    yield from of_experts(trace, seen, seed)
    yield quietly(lambda: counts_summary(expert_load(trace))), seen
    yield from of_serving(trace, seen, (0.5, 0.1, 1.0)[seed % 3])
    yield from of_balance(trace, seen, seed)
    for devices in (2, 4):  # with as few choices as these traces have
        frame = quietly(lambda devices=devices: placement_judgements(trace, devices))
        yield (None if frame is None else placement_verdict(frame, 4)), seen, devices, 4
    if not seed % 8:
        yield from of_several(trace, seen, seed)


def of_charts(trace, only=None):
    """Claims of all charts, of the part of the trace that each is about."""
    layers = trace.model.layers
    chosen = {"all": layers, "one": layers[len(layers) // 2 :][:1], "two": layers[:2]}
    parts = {name: trace if some == layers else trace.select(layers=some) for name, some in chosen.items()}
    seen, measured = {name: Seen(part) for name, part in parts.items()}, {}  # several charts draw the same numbers
    for name, chart in CHARTS.items():
        key = chart.measure, chart.layers
        if key not in measured:
            measured[key] = quietly(lambda chart=chart: chart.measure(parts[chart.layers]))
        if measured[key] is not None and (only is None or name == only):
            recorded = int(parts[chart.layers].recorded.sum(axis=1).max(initial=0))  # as the page has it
            yield (
                chart.caption(measured[key], recorded),
                seen[chart.layers],
                *((False,) if name == "balance_dots" else ()),
            )


def of_findings(trace, seen, seed):
    half = len(trace.tokens) // 2
    usual = trace.select(tokens=slice(half, None)) if seed % 3 == 0 and half > 4 else None
    part = trace if usual is None else trace.select(tokens=slice(0, half))
    mine, theirs = seen if usual is None else Seen(part), None if usual is None else Seen(usual)
    for finding in findings(part, usual):
        yield finding.sentence, mine, finding, theirs


def of_experts(trace, seen, seed):
    for layer in trace.model.layers[:2]:
        expert = seed % trace.model.num_experts[trace.model.layers.index(layer)]
        kinds = expert_kinds(trace, layer, expert) if "label" in trace.tokens else None
        yield expert_summary(trace, layer, expert, keeping_tokens(trace, layer, expert), kinds), seen, layer, expert
        if kinds is not None and not kinds["share"].isna().any():  # with losses that are made up
            made = np.random.default_rng(seed).choice([0, 0.001, 0.2, 1.37, 0.04], len(kinds))
            losses = dict(zip(kinds["label"], made, strict=True))
            yield need_sentence(kinds.assign(loss_change=kinds["label"].map(losses))), seen, layer, expert, losses
    word = trace.tokens["text"].iloc[seed % len(trace.tokens)].strip() or ("digits", "LA", "qu")[seed % 3]
    found = quietly(lambda: tokens_of_word(trace, word))
    takers = None if found is None else quietly(lambda: who_takes(trace, found.tokens))
    if takers is not None:
        yield who_takes_sentence(found, takers, trace.weights is not None), seen, word


def of_serving(trace, seen, part):
    memory = part * EXPERT_BYTES * sum(trace.model.num_experts)
    bought = quietly(lambda: budget_sentence(trace, hit_rates(trace, EXPERT_BYTES), memory / 1e9, EXPERT_BYTES))
    yield bought, seen, memory, EXPERT_BYTES
    yield quietly(lambda: placement_sentence(serving_placement(trace))), seen


def of_balance(trace, seen, seed):
    plain = quietly(lambda: load_beside_luck(trace))
    for grouped in (False, True) if "label" in trace.tokens else (False,):
        frame = quietly(lambda: load_beside_luck(trace.counts_by_label())) if grouped else plain
        for make in (balance_sentence, luck_sentence) if frame is not None else ():
            yield make(frame), seen, grouped
        if frame is not None:
            yield quietly(lambda frame=frame: layer_sentence(frame, trace.model.layers[-1])), seen, grouped
    other = of_the_same_tokens(trace, seed)
    if plain is not None:
        yield quietly(lambda: elsewhere_sentence(plain, load_beside_luck(other))), seen, Seen(other)


def of_several(trace, seen, seed):
    other = of_the_same_tokens(trace, seed)
    traces = {"A": trace, "B": random_trace(seed + 1), "C": other}

    def several():
        table = repetition_of_several(traces) if any(one.ordered for one in traces.values()) else None
        return multi_trace_summary(figures_of_several(traces), table, of_one_text(traces))

    for claim in quietly(several) or ():
        yield claim, {name: Seen(one) for name, one in traces.items()}
    part = trace.select(layers=trace.model.layers[-1:])
    yield quietly(lambda: first_choices_summary(part)), Seen(part)
    rng = np.random.default_rng(seed)
    layer, asked = int(rng.choice(trace.model.layers)), None
    if seed % 16:
        experts = trace.model.num_experts[trace.model.layers.index(layer)]
        asked = {layer: {int(rng.integers(experts)): float(rng.choice([0, 0.001, -0.001]))}}
    for changed in (other, trace):
        yield choices_moved(trace, changed, asked), seen, Seen(changed), asked
    word = len(trace.tokens) // 2
    again = with_another_word(other, word)
    yield quietly(lambda: word_change_summary(word_change((trace, again)))), seen, Seen(again), word


def with_another_word(trace, word):
    here = np.arange(len(trace.tokens)) == word
    ids, texts = (trace.tokens[name].mask(here, value) for name, value in (("token_id", 10**6), ("text", "another")))
    tokens = trace.tokens.assign(token_id=ids.astype(np.int32), text=texts.astype("str"))
    return replace(trace, tokens=tokens)
