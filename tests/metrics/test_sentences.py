"""Every sentence that a page or the command line may say about a trace, counted again by a second implementation.

`recount.py` reads a sentence, and works out each claim of it from the arrays by plain loops. Here are the sentences: of
a thousand random traces, whose each number is then changed to see that the second reading notices; and the list of all
functions that write such sentences, so that a new one is read too.
"""

import ast
import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import recount
from random_traces import of_the_same_tokens, random_trace
from recount import HANDFUL, Refuted

from moeviz.charts import NAMED
from moeviz.charts.serving import CHARTS as OF_SERVING
from moeviz.errors import MoevizError
from moeviz.metrics import engine_difference as engines
from moeviz.metrics import findings as found_in
from moeviz.metrics.balance import balance_sentence, elsewhere_sentence, load_beside_luck, luck_sentence
from moeviz.metrics.effect import word_change, word_change_summary
from moeviz.metrics.expert import expert_kinds, need_sentence
from moeviz.metrics.expert_names import expert_name_sentence, expert_names
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
from moeviz.metrics.significance import HANDFUL as OURS
from moeviz.metrics.who_takes import tokens_of_word, who_takes, who_takes_sentence
from moeviz.serving.budget import budget_sentence, hit_rates
from moeviz.serving.decision import placement_judgements, placement_verdict
from moeviz.serving.placement import placement_sentence, serving_placement

ROOT = Path(__file__).parents[2]
ALL = {chart.key: chart for chart in (*NAMED.values(), *OF_SERVING) if chart.say}
SEEDS, CASES = 1000, 40
EXPERT_BYTES = 1e6


def name_of(function) -> str:
    return f"{function.__module__}.{function.__name__}"


def part_of(trace, chart):
    layers = trace.model.layers
    chosen = {"all": layers, "one": layers[len(layers) // 2 :][:1], "two": layers[:2]}[chart.layers]
    return trace if chosen == layers else trace.select(layers=chosen)


def said_of(seed):
    """Yield what is said of a random trace: which function says it, the sentence, and how to count it again."""
    trace = random_trace(seed)
    parts = {chart.layers: part_of(trace, chart) for chart in ALL.values()}
    measured = {}  # several charts draw the same numbers
    for chart in ALL.values():
        name, part, key = name_of(chart.say), parts[chart.layers], (chart.measure, chart.layers)
        if key not in measured:
            measured[key] = quietly(lambda chart=chart, part=part: chart.measure(part))
        if measured[key] is not None and (sentence := chart.caption(measured[key])):
            yield name, sentence, lambda said, name=name, part=part: recount.check(name, said, part)
    yield from of_findings(trace, seed)
    yield from of_experts(trace, seed)
    yield from of_serving(trace, (0.5, 0.1, 1.0)[seed % 3])
    yield from of_balance(trace, seed)
    yield from of_verdict(trace)
    if sentence := quietly(lambda: counts_summary(expert_load(trace))):
        name = name_of(counts_summary)
        yield name, sentence, lambda said: recount.check(name, said, trace)
    if not seed % 8:
        yield from of_several(trace, seed)


def of_findings(trace, seed):
    half = len(trace.tokens) // 2
    usual = trace.select(tokens=slice(half, None)) if seed % 3 == 0 and half > 4 else None
    part = trace if usual is None else trace.select(tokens=slice(0, half))
    for finding in findings(part, usual):

        def again(said, finding=finding):
            recount.check_finding(part, replace(finding, sentence=said), usual)

        yield name_of(findings), finding.sentence, again


def of_experts(trace, seed):
    names = quietly(lambda: expert_names(trace))
    for layer in trace.model.layers[:2]:
        expert = seed % trace.model.num_experts[trace.model.layers.index(layer)]
        kinds = expert_kinds(trace, layer, expert) if "label" in trace.tokens else None
        sentence = expert_summary(trace, layer, expert, keeping_tokens(trace, layer, expert), kinds)

        def again(said, layer=layer, expert=expert):
            recount.check(name_of(expert_summary), said, trace, layer, expert)

        yield name_of(expert_summary), sentence, again
        if names is not None and (said := expert_name_sentence(names, layer, expert)):
            where = trace, layer, expert
            yield (
                name_of(expert_name_sentence),
                said,
                lambda said, where=where: recount.check(name_of(expert_name_sentence), said, *where),
            )
        yield from of_losses(trace, layer, expert, kinds, seed)
    word = trace.tokens["text"].iloc[seed % len(trace.tokens)].strip() or ("digits", "LA", "qu")[seed % 3]
    found = quietly(lambda: tokens_of_word(trace, word))
    takers = None if found is None else quietly(lambda: who_takes(trace, found.tokens))
    if takers is not None:
        said = who_takes_sentence(found, takers, trace.weights is not None)
        yield name_of(who_takes_sentence), said, partial(recount_word, trace, word)


def recount_word(trace, word, said):
    recount.check(name_of(who_takes_sentence), said, trace, word)


def of_losses(trace, layer, expert, kinds, seed):
    """What would be lost, with losses that are made up."""
    if kinds is None or kinds["share"].isna().any():
        return
    losses = dict(
        zip(kinds["label"], np.random.default_rng(seed).choice([0, 0.001, 0.2, 1.37, 0.04], len(kinds)), strict=True)
    )
    if sentence := need_sentence(kinds.assign(loss_change=kinds["label"].map(losses))):
        yield (
            name_of(need_sentence),
            sentence,
            lambda said: recount.check(name_of(need_sentence), said, trace, layer, expert, losses),
        )


def of_serving(trace, part):
    gigabytes, what = part * EXPERT_BYTES * sum(trace.model.num_experts) / 1e9, name_of(budget_sentence)
    if sentence := quietly(lambda: budget_sentence(trace, hit_rates(trace, EXPERT_BYTES), gigabytes, EXPERT_BYTES)):
        yield what, sentence, lambda said: recount.check(what, said, trace, EXPERT_BYTES)
    if sentence := quietly(lambda: placement_sentence(serving_placement(trace))):
        where = name_of(placement_sentence)
        yield where, sentence, lambda said: recount.check(where, said, trace)


def of_balance(trace, seed):
    plain = quietly(lambda: load_beside_luck(trace))
    for grouped in (False, True) if "label" in trace.tokens else (False,):
        frame = quietly(lambda: load_beside_luck(trace.counts_by_label())) if grouped else plain
        for say in (balance_sentence, luck_sentence) if frame is not None else ():
            if sentence := say(frame):
                name = name_of(say)
                yield name, sentence, lambda said, name=name, grouped=grouped: recount.check(name, said, trace, grouped)
    other = of_the_same_tokens(trace, seed)
    if plain is not None and (said := quietly(lambda: elsewhere_sentence(plain, load_beside_luck(other)))):
        yield (
            name_of(elsewhere_sentence),
            said,
            lambda said: recount.check(name_of(elsewhere_sentence), said, trace, other),
        )


def of_verdict(trace, enough=4):
    """With so few choices as these traces have."""
    for devices in (2, 4):
        frame = quietly(lambda devices=devices: placement_judgements(trace, devices))
        if frame is not None and (sentence := placement_verdict(frame, enough)):
            name = name_of(placement_verdict)
            yield name, sentence, lambda said, name=name, n=devices: recount.check(name, said, trace, n, enough)


def of_several(trace, seed):
    other = of_the_same_tokens(trace, seed)
    pair = (trace, other)
    name = name_of(engines.engine_difference_summary)
    if sentence := quietly(
        lambda: engines.engine_difference_summary(engines.engine_difference(pair), engines.first_partings(pair))
    ):
        yield name, sentence, lambda said: recount.check_engine_summary(said, trace, other)
    traces = {"A": trace, "B": random_trace(seed + 1), "C": other}

    def sentences():
        table = repetition_of_several(traces) if any(one.ordered for one in traces.values()) else None
        return multi_trace_summary(figures_of_several(traces), table, of_one_text(traces))

    for sentence in quietly(sentences) or ():
        yield name_of(multi_trace_summary), sentence, lambda said: recount.check_multi_summary([said], traces)
    part = trace.select(layers=trace.model.layers[-1:])
    if sentence := quietly(lambda: first_choices_summary(part)):
        what = name_of(first_choices_summary)
        yield what, sentence, lambda said: recount.check(what, said, part)
    word = len(trace.tokens) // 2
    here = np.arange(len(trace.tokens)) == word
    ids, texts = (other.tokens[name].mask(here, value) for name, value in (("token_id", 10**6), ("text", "another")))
    again = replace(other, tokens=other.tokens.assign(token_id=ids.astype(np.int32), text=texts.astype("str")))
    if sentence := quietly(lambda: word_change_summary(word_change((trace, again)))):
        yield name_of(word_change_summary), sentence, lambda said: recount.check_word_change(said, trace, again, word)


def quietly(say):
    """What is said; None where the trace lacks what it takes, which is said in another sentence."""
    try:
        return say()
    except MoevizError:
        return None


def refuted(again, sentence) -> str:
    """Why a second count refutes a sentence; empty where it does not."""
    try:
        again(sentence)
    except Refuted as why:
        return str(why)
    return ""


@pytest.mark.parametrize("case", range(CASES))
def test_no_sentence_about_a_random_trace_is_refuted(case):
    wrong, told = [], 0
    for seed in range(case, SEEDS, CASES):
        for name, sentence, again in said_of(seed):
            told += 1
            if why := refuted(again, sentence):
                wrong.append(f"seed {seed}, {name}: {why}")
    assert told > SEEDS // CASES
    assert not wrong, "\n".join(wrong)


def test_each_number_of_each_sentence_is_counted_again():
    """The control: with a number of it made another a sentence is refuted, but for the few that stay true."""
    noticed: dict[str, Counter] = {}
    for seed in range(0, SEEDS, 13):
        for name, sentence, again in said_of(seed):
            found = noticed.setdefault(name, Counter())
            if found["numbers"] > 20:
                continue
            for _, other in recount.changed(sentence):
                found["numbers"] += 1
                found["refuted"] += recount.notices(partial(again, other))
    missed = {name: dict(found) for name, found in noticed.items() if found["refuted"] < 0.75 * found["numbers"]}
    assert not missed


TWO_WORDS = re.compile(r"[a-z]{2,},? [a-z]{2,}")
ROOMS = (
    "moeviz/metrics",
    "moeviz/serving",
    "moeviz/charts",
    "moeviz/report",
    "app/moeviz_app/views",
    "app/moeviz_app/widgets",
)
# Functions that write words around what they have found, by what makes sure of it. A new one belongs into one of these.
COUNTED_AGAIN = """
metrics/balance: balance_sentence luck_sentence elsewhere_sentence _who
metrics/co_activation: co_activation_caption strongest_pairs_caption
metrics/coverage: experts_needed_caption experts_touched_caption
metrics/engine_difference: engine_difference_summary _of_order _of_place _others
metrics/expert: need_sentence
metrics/expert_names: expert_name_sentence expert_names_caption
metrics/expert_tokens: expert_summary_of_counts _of_kinds _of_tokens
metrics/findings: _say_busiest _role _of_all
metrics/flow: transitions_caption consecutive_information_caption information_between_layers_caption _tells_most
metrics/layers: ranked_load_caption two_balances_caption overlap_caption
metrics/load: load_caption importance_caption balance_caption busiest_caption counts_summary _unused
metrics/locality: _repeats_caption
metrics/losses: aux_loss_caption z_loss_caption
metrics/multi_trace: multi_trace_summary _of_repetition first_choices_summary
metrics/parameters: parts_caption active_caption touched_caption
metrics/placement: imbalance_caption
metrics/specialization: label_load_caption label_information_caption label_divergence_caption
metrics/effect: word_change_summary
metrics/vocabulary: token_kinds_caption vocabulary_layers_caption vocabulary_caption
metrics/who_takes: who_takes_sentence tokens_of_word
serving/batches: batch_coverage_caption
serving/budget: budget_sentence hit_rates_caption
serving/decision: placement_verdict
serving/placement: placement_sentence serving_placement_caption
app/moeviz_app/views/expert_context: numbers_line
app/moeviz_app/views/explore: _headline
app/moeviz_app/widgets/facts: trace_name _counted _parameters _touched
"""
ELSEWHERE = {
    "test_metrics_expert_table.py": """
metrics/expert_table: expert_table_sentences notes_on_experts labels_sentence
""",
    "test_metrics_direct_attribution.py": """
metrics/direct_attribution: direct_parts direct_caption
""",
    "test_history_story.py": """
app/moeviz_app/widgets/components/history: _twin
""",
    "test_metrics_contrast.py and test_app_pages.py": """
metrics/contrast: contrast_sentence
app/moeviz_app/views/contrast: _show _dial
""",
    "test_metrics_expert_table.py and test_app_pages.py": """
metrics/contribution: contribution_caption missed_sentence
app/moeviz_app/views/expert_table: _draw _of_texts _show
""",
    "test_metrics_tune_targets.py, test_pruning_curve.py and test_app_pages.py": """
metrics/tune_targets: tune_targets_sentence
metrics/pruning: why_not
app/moeviz_app/views/prune: _show _write
""",
    "test_bits.py": """
metrics/bits: unreached_sentence
""",
    "test_history_phone_book.py and test_browser_history.py": """
app/moeviz_app/views/history/story: _bar _bars _words
""",
    "test_doctor.py and test_engine_difference.py": """
metrics/doctor: _part _zeros_of_one not_recorded
metrics/doctor: _of_number _beside _of_counts zeros twice one_choice layers_alike one_part weights
metrics/doctor_rows: draft repeats neighbours even again duplicates padding token_shift
metrics/engine_difference: tokens_caption _of_ties _difference _explains _layers agreement_sentence
""",
    "test_decision.py and test_serving_plans.py": """
serving/decision: persistence_sentence _sides
serving/answers: split_sentence _with_limits
serving/batches: draft_sentence
serving/placement: device_pairs_sentence together_sentence
app/moeviz_app/views/serve_controls: _of_file
""",
    "test_serving.py, test_serving_cli.py and test_budgets.py": """
serving/budget: most_used_sentence
serving/plans/engines: plan_remarks _missing_layers
serving/memory: fit_sentence
""",
    "refusals: what is missing, or too large, in the words of an error": """
metrics/co_activation: _experts_that_occur
metrics/inputs: check_recorded
app/moeviz_app/views/compare: _say_who_is_missing
app/moeviz_app/views/serve: serve_page offer_plan
""",
    "names and titles in charts, which have a golden file each": """
metrics/locality: any_choice
charts/co_activation: _drawn
charts/flow: flow_ribbons _shown
charts/layers: layer_transitions
charts/load: balance_of_parts
charts/overview: described
charts/serving: _size_title _spread placement_plane memory_bars
charts/vocabulary: top_tokens_table
""",
    "which part is shown, and what marks mean: the tests of the report, the view and the pages": """
serving/requests: served_tokens
serving/plans/plan: _judged
report/notebook: trace_html facts _not_recorded _parameters
report/view: document
report/page_folder: _shown _cannot _files
report/page: html_report _text _legend _grey _token _chart _numbers
report/pictures: picture
report/plots: about
report/view: _page __repr__ _repr_html_
app/moeviz_app/views/compare: strips _kept_even
app/moeviz_app/views/what_if: _most_moved
app/moeviz_app/views/expert: _draw_of_trace _of_lines _sample _rows
app/moeviz_app/views/expert_context: checked _choose _name panel
app/moeviz_app/views/experts: _draw _facts said_of_names
app/moeviz_app/views/serve: _cache
app/moeviz_app/views/serve_controls: _tokens _not_too_many _gigabytes
app/moeviz_app/widgets/components/texts: token_strip
app/moeviz_app/widgets/facts: model_facts dataset_facts _likeness
app/moeviz_app/widgets/pickers: choose_layer
app/moeviz_app/views/balance: _facts
""",
}
# Words about runs, files, links, buttons, commands, and how far something is: not about a trace.
OTHER = """
serving/plans/engines: llama_cpp_command lmdeploy_command ktransformers_command tensorrt_llm_command vllm_ascend_command
serving/plans/engines: eplb_command
app/moeviz_app/widgets/near: when_near
app/moeviz_app/views/compare: _expert_by_expert _offer_own_models _in_model
app/moeviz_app/views/engine_difference: _say_where_traces_come_from
app/moeviz_app/views/corpus: _pasted _how_far
app/moeviz_app/views/balance: _asked
app/moeviz_app/views/expert_jobs: offer_muting offer_rows _watch _rows_name
app/moeviz_app/views/history/gallery: _say_whose_result trace_to_other_pages
app/moeviz_app/views/history/mixtral: mixtral_page _what_does_it
app/moeviz_app/views/layout: _show
app/moeviz_app/views/serve: _file
app/moeviz_app/views/timeline: _calculator
app/moeviz_app/views/models: _about
app/moeviz_app/views/read_again: _watch
app/moeviz_app/views/one_word: _show _strip
app/moeviz_app/views/traces: _open
app/moeviz_app/views/training: _chosen _upload _facts _notes show_alarms _alarm _folded
app/moeviz_app/views/training_charts: _snapshots _layer _second show_snapshots _by_label
app/moeviz_app/widgets/answers: damage _watch
app/moeviz_app/widgets/chart_panel: tell_once menu alternative
app/moeviz_app/widgets/files: import_options doctor_says
app/moeviz_app/widgets/run_options: choose_model
app/moeviz_app/widgets/run_panel: waiting_words listen
app/moeviz_app/widgets/pickers: bring_up_pair _wait
"""


def listed(table: str) -> set[tuple[str, str]]:
    """Files and functions of a table above."""
    rows = (line.partition(": ") for line in table.strip().splitlines())
    return {(file, name) for file, _, names in rows for name in names.split()}


def own_nodes(function):
    """What is written in a function itself; what it raises is told elsewhere."""
    rest = list(ast.iter_child_nodes(function))
    while rest:
        node = rest.pop()
        if not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Raise):
            yield node
            rest += ast.iter_child_nodes(node)


def writes_words(function) -> bool:
    """Whether it puts what it has found between words."""
    texts = (node.values for node in own_nodes(function) if isinstance(node, ast.JoinedStr))
    literal = ("".join(part.value if isinstance(part, ast.Constant) else "1" for part in parts) for parts in texts)
    return any(map(TWO_WORDS.search, literal))


def test_every_function_that_writes_sentences_is_in_a_table_and_what_is_said_of_traces_is_counted_again():
    found = set()
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").as_posix().removeprefix("moeviz/")
        functions = (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef))
        found |= {(name, function.name) for function in functions if writes_words(function)}
    tables = [listed(table) for table in (COUNTED_AGAIN, *ELSEWHERE.values(), OTHER)]
    known = set().union(*tables)
    assert found - known == set(), "say in a table above how these sentences are made sure of"
    assert known - found == set(), "these write no sentence any more"
    assert sum(map(len, tables)) == len(known), "a function is in two tables"
    assert {name_of(chart.say) for chart in ALL.values()} <= set(recount.CHECKS)


def test_the_second_reading_shares_nothing_with_the_first():
    nodes = [*ast.walk(ast.parse(Path(recount.__file__).read_text("utf-8")))]
    names = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert names == {"collections.abc", "itertools", "math", "numpy", "random", "re"}
    assert HANDFUL == OURS


def test_where_any_choice_is_counted_the_second_reading_refutes_what_is_found(monkeypatch):
    """The control of what testers saw: sentences that count any slot, beside a strip of first choices."""
    traces = [(seed, random_trace(seed)) for seed in range(100)]
    traces = [(seed, trace) for seed, trace in traces if trace.ordered and trace.model.top_k > 1]
    monkeypatch.setattr(found_in, "_counted", lambda trace, row, _: trace.experts[row])
    wrong = [
        bool(refuted(again, sentence)) for seed, trace in traces for _, sentence, again in of_findings(trace, seed)
    ]
    assert sum(wrong) > 3
