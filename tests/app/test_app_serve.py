"""The page Serve: whether a model fits, what its routing costs in parts, and what is lacking is said in its place."""

import re
from dataclasses import replace

import numpy as np
import pytest
from app_pages import SECONDS, address, look_at, page, pictures, sentences, visit, visit_of
from streamlit.testing.v1 import AppTest

from moeviz import ParameterCounts, RoutingTrace
from moeviz.metrics.words import percent
from moeviz.routing_trace import NO_TOKEN_ID
from moeviz.serving.answers import stale
from moeviz.serving.budget import budget_sentence, hit_rates
from moeviz.serving.decision import LITTLE
from moeviz.serving.memory import fit_sentence, known_model, known_models, memory_on_cards
from moeviz.serving.plans.engines import ENGINES
from moeviz.serving.plans.plan import make_plan
from moeviz.serving.requests import served_tokens
from moeviz.testing import sample_trace
from moeviz_app.session import session
from moeviz_app.session.library import SessionLibrary
from moeviz_app.views.serve import AHEAD, BATCHES, CACHED, CARD, DEVICES, EVERY_CARD, FITS_PART, ON, PARTS, PLAN
from moeviz_app.views.serve_controls import chosen_devices


def serve(trace: RoutingTrace | None = None, part: str | None = None):
    """The page, as a visitor of the trace has it, with a part of it open."""
    app = page("moeviz_app.views.serve.serve_page", trace)
    return turned_to(app, part)


def turned_to(app, part: str | None):
    if part is not None:
        app.session_state[session.SERVE_PART] = part
        app.run()
    assert not app.exception
    return app


def sized(trace: RoutingTrace) -> RoutingTrace:
    """The trace with made-up parameter counts: an expert has 3 million, which are 6 MB in bfloat16."""
    layers = len(trace.model.layers)
    experts = sum(trace.model.num_experts)
    counts = ParameterCounts(0, 0, 0, 0, experts * 3_000_000, 0, 0, 0, per_expert=(3_000_000,) * layers)
    return replace(trace, model=replace(trace.model, parameters=counts, dtype="bfloat16"))


def number(app, label: str):
    """The number input of that name."""
    (found,) = (box for box in app.number_input if box.label.startswith(label))
    return found


def choice(app, label: str):
    (found,) = (box for box in app.selectbox if box.label == label)
    return found


def test_the_first_visitor_sees_whether_a_published_model_fits_in_one_sentence_and_one_picture():
    app = serve()
    assert choice(app, "On").value == CARD
    model = known_model("mistralai/Mixtral-8x7B-v0.1")
    assert pictures(app) == 1 and answered(app, memory_on_cards(model, CARD))
    choice(app, "On").set_value("H100").run()
    assert answered(app, memory_on_cards(model, "H100"))
    choice(app, "Context").set_value(131_072).run()
    choice(app, "Sequences").set_value(32).run()
    assert answered(app, memory_on_cards(model, "H100", context=131_072, sequences=32))
    found = {}
    for part in PARTS:
        found[part] = pictures(turned_to(app, part))
    assert found == {FITS_PART: 1, CACHED: 1, DEVICES: 1, BATCHES: 1, AHEAD: 0, EVERY_CARD: 1, PLAN: 0}


def answered(app, fits) -> bool:
    """Whether the first card has the whole answer to whether it fits: a verdict, and the sentences after it."""
    verdict, _, rest = fit_sentence(fits).partition(": ")
    said = " ".join(node.value for node in [*app.text, *app.markdown]).replace("\\", "").lower()
    return verdict == verdicts(app)[0] and all(part.rstrip(".").lower() in said for part in rest.split(". "))


def verdicts(app) -> list[str]:
    """The verdicts of the cards, in their order."""
    found = (re.fullmatch(r":\w+-badge\[(.*)\]", node.value) for node in app.markdown)
    return [badge[1] for badge in found if badge]


def test_what_counts_cannot_say_is_said_part_by_part():
    app = serve()
    said = sentences(turned_to(app, CACHED))
    assert "LRU and what else remembers the last tokens needs their order" in said

    assert all(number in said for number in ("76%", "75%")) and "17 GB" in said, (
        "of all 32 layers, though 3 were counted"
    )
    said = sentences(turned_to(app, DEVICES))
    assert verdicts(app) == ["Not whole", "Not worth it", "Not now", "Not known", "No plan"]
    assert "+0.1%" in said and "+4.4%" in said
    assert "Prefetching needs the experts of each token, in order" in sentences(turned_to(app, AHEAD))
    assert "No plan: an engine asks for all 32 layers, and 3 of them were counted." in sentences(turned_to(app, PLAN))


def test_a_model_that_is_known_by_its_configuration_alone_has_an_answer_and_a_command_that_records_it():
    app = serve()
    look_at(app, "Qwen/Qwen3-30B-A3B")
    assert answered(app, memory_on_cards(known_model("Qwen/Qwen3-30B-A3B"), CARD)) and pictures(app) == 1
    assert "“moeviz trace - --model Qwen/Qwen3-30B-A3B -o trace.npz < text.txt”" in sentences(app)
    assert pictures(turned_to(app, EVERY_CARD)) == 1


def test_every_model_on_every_card_has_an_answer():
    cards, names = [*ON.values()], known_models()
    for name, (card, number) in [*((name, cards[0]) for name in names), *((names[-1], on) for on in cards)]:
        frame = memory_on_cards(known_model(name), card, number)
        assert fit_sentence(frame).name in ("model_fits", "model_does_not_fit")
        assert (frame["fit"].between(-1, frame["num_experts"])).all()


def test_the_answer_changes_with_the_budget_and_the_devices():
    app = serve(sized(sample_trace(tokens=64)), CACHED)
    assert number(app, "Size of one expert").value == 6.0
    assert number(app, "Memory for experts (MB)").value == pytest.approx(96), "half of 4 layers of 8 experts"
    assert "96 MB" in sentences(app)
    number(app, "Memory for experts").set_value(150.0)
    app.run()
    assert "150 MB" in sentences(app) and "96 MB" not in sentences(app)
    app = turned_to(app, DEVICES)
    assert verdicts(app) == ["Too little evidence"] * 3 + ["Ready"]
    choice(app, "Devices").set_value(2)
    assert not app.run().exception and verdicts(app) == ["Too little evidence"] * 3 + ["Ready"]
    app = turned_to(serve(), DEVICES)
    look_at(app, "embedded")
    assert verdicts(app)[1:3] == ["Not worth it", "Too little evidence"]
    notes = " ".join(note.value for note in turned_to(app, PLAN).markdown)
    assert "on balancing the evidence says “too little evidence”" in notes


def test_a_budget_below_what_a_token_needs_and_one_for_all_experts_say_so():
    app = serve(sized(sample_trace(tokens=64)), CACHED)
    number(app, "Memory for experts").set_value(30.0)
    app.run()
    assert "30 MB" in sentences(app) and "48 MB" in sentences(app)
    number(app, "Memory for experts").set_value(1000.0)
    app.run()
    assert "1 GB" in sentences(app) and "192 MB" in sentences(app)


def test_without_parameter_counts_the_size_of_an_expert_is_asked_for_and_everything_else_is_drawn(trace):
    app = serve(trace)
    assert "Which cards hold it takes the model's configuration." in sentences(app) and not pictures(app)
    app = turned_to(app, CACHED)
    assert number(app, "Size of one expert").value is None and number(app, "Memory for experts").disabled
    assert "Say how large an expert is" in sentences(app)
    for part in (CACHED, DEVICES, BATCHES, AHEAD):
        assert pictures(turned_to(app, part)) == 1, part
    assert "needs the model's configuration" in sentences(turned_to(app, EVERY_CARD))
    number(turned_to(app, CACHED), "Size of one expert").set_value(6.0)
    app.run()
    assert "experts of each layer: LRU finds" in sentences(app)


def test_a_trace_without_tokens_says_that_there_is_nothing_to_draw(trace):
    assert "contains no tokens" in sentences(serve(trace.select(tokens=slice(0, 0))))


@pytest.mark.parametrize(
    "odd",
    [sample_trace(tokens=1), sample_trace(layers=1, tokens=20), sample_trace(tokens=2, experts=2, top_k=2)],
    ids=["one token", "one layer", "all experts"],
)
def test_odd_traces_are_drawn_or_told_why_not(odd):
    app = serve(sized(odd))
    for part in PARTS:
        assert "nan" not in sentences(turned_to(app, part))
    app = turned_to(app, PLAN)
    for engine in ENGINES:
        choice(app, "Engine").set_value(engine)
        app.run()
        assert not app.exception


def test_tokens_are_chosen_by_phase_and_which_they_are_is_said(trace):
    app = serve(trace, CACHED)
    assert "Judged on the second half of 8 tokens: generated ones." in sentences(app)
    choice(app, "Which tokens").set_value("prompt")
    app.run()
    assert "Judged on the second half of 24 tokens: those of prompts. Repeated prefixes are kept." in sentences(app)


def test_repeats_are_left_out_where_asked_or_it_is_said_what_that_needs(trace):
    nameless = replace(trace, tokens=trace.tokens.assign(token_id=np.int32(NO_TOKEN_ID)))
    for each, said in ((trace, "of repeated prefixes are left out"), (nameless, "the ids of all tokens are needed")):
        app = serve(each, CACHED)
        app.toggle[0].set_value(False)
        app.run()
        assert said in sentences(app)


def test_a_plan_comes_with_the_command_that_starts_the_engine_and_how_it_was_judged(trace):
    app = serve(trace, PLAN)
    choice(app, "Engine").set_value("sglang")
    app.run()
    assert "Judged on tokens it was not made from" in sentences(app)
    (command,) = (code.value for code in app.code)
    assert "--ep-size 4 --ep-num-redundant-experts 4 " in command
    assert re.search(r"--init-expert-location moeviz-\S+-plan\.json$", command)
    (button,) = (node for node in app.get("download_button") if node.proto.label == "Download the plan")
    assert button.proto.url


def test_an_engine_that_counts_all_layers_asks_how_many_there_are_where_the_trace_does_not_say(trace):
    app = serve(replace(trace, model=replace(trace.model, num_layers=None)), PLAN)
    choice(app, "Engine").set_value("sglang")
    app.run()
    assert "SGLang counts all layers of the model" in sentences(app) and not app.code
    number(app, "Layers of the model").set_value(12)
    app.run()
    assert app.code


def test_counts_by_label_say_what_the_most_used_experts_have_of_other_labels():
    counts = sized(sample_trace(tokens=64)).counts()
    halves = np.stack([counts.assignments[0] // 3, counts.assignments[0] - counts.assignments[0] // 3])
    labelled = replace(counts, assignments=halves, tokens=np.full((2, 4), 64), groups=("a", "b"), group_kind="label")
    said = budget_sentence(labelled, hit_rates(labelled, 6e6), 0.096, 6e6)
    assert said.name == "most_used_of_counts" and said["others"] is not None and said["chance"] == 0.5
    app = page("moeviz_app.views.serve.serving", None, labelled)
    assert said in sentences(turned_to(app, CACHED))
    choice(turned_to(app, PLAN), "Engine").set_value("sglang")
    app.run()
    assert make_plan(labelled, 4, 4).judged.partition("(")[2].partition(")")[0] in sentences(app)


def test_of_a_long_trace_the_first_tokens_are_judged_and_the_page_says_so(monkeypatch):
    monkeypatch.setattr("moeviz_app.views.serve_controls.MOST_JUDGED", 4 * 10)
    app = serve(sized(sample_trace(tokens=64)), CACHED)
    (judged,) = (text.value for text in app.text if text.value.startswith("Judged on"))
    assert judged.startswith("Judged on the second half of the first 10 of ")
    assert judged.endswith("“moeviz cost” judges all of them.")
    assert "made from all 10 tokens" in sentences(turned_to(app, PLAN))


ASKED = {
    "part": "memory",
    "card": "2x H100",
    "bits": "8",
    "context": "32768",
    "sequences": "8",
    "memory": "0.03",
    "devices": "2",
    "tokens": "all",
    "repeats": "off",
    "expert_mb": "1.5",
    "engine": "lmdeploy",
}


def test_a_link_brings_what_the_page_was_asked_and_the_address_says_it_again():
    app = visit("serve", prompt="One day a little girl went for a walk", model="embedded", **ASKED)
    assert "30 MB hold" in sentences(app) and choice(app, "Devices").value == 2
    assert "of repeated prefixes are left out" in sentences(app)
    assert app.session_state[session.ENGINE] == "lmdeploy" and number(app, "Size of one expert").value == 1.5
    assert {name: address(app).get(name) for name in ASKED} == ASKED
    choice(app, "Devices").set_value(4)
    app.toggle[0].set_value(True)
    app.run()
    assert "devices" not in address(app) and "repeats" not in address(app), "what is as it is at first stays out"
    assert address(app)["memory"] == "0.03"


@pytest.mark.parametrize(
    ("name", "odd"),
    [
        ("memory", "-1"),
        ("memory", "nan"),
        ("devices", "3"),
        ("tokens", "<b>"),
        ("repeats", "maybe"),
        ("engine", "vllm"),
        ("part", "<b>"),
        ("bits", "5"),
        ("context", "<b>"),
    ],
)
def test_what_a_link_asks_that_is_not_offered_is_ignored(name, odd):
    app = visit("serve", **{"subject": "mixed", "part": "memory", name: odd})
    assert address(app).get(name) != odd and sentences(app)


def test_counts_show_what_needs_no_order_and_what_does():
    def script():
        import streamlit as st

        from moeviz_app.views.serve import serving

        serving(st.session_state["counts"])

    trace = sized(sample_trace(tokens=64))
    app = AppTest.from_function(script, default_timeout=SECONDS)
    app.session_state["counts"] = trace.counts()
    said = sentences(turned_to(app, CACHED))
    assert (
        "the most used 4 have" in said and "Judged on the same 64 tokens, which are counted and not in order." in said
    )
    assert "LRU and what else remembers the last tokens needs their order" in said and pictures(app) == 1
    assert "Counts of everything together judge no plan but on the tokens that it is made from." in said
    assert pictures(turned_to(app, BATCHES)) == 1, "of any tokens"
    assert "Prefetching needs the experts of each token, in order" in sentences(turned_to(app, AHEAD))
    said = sentences(turned_to(app, PLAN))
    assert "could not be judged on others" in said and app.code and "nan" not in said


def test_plans_are_judged_on_another_recording_of_the_visitor():
    """None is asked about without one; chosen, it gives what is kept as one number per plan, and a sentence."""
    one, other = (sample_trace(tokens=4_000, top_k=4, experts=16, seed=seed) for seed in (0, 1))
    few = other.select(tokens=slice(0, 400))
    label = "Is a plan of this recording still good on another?"
    app = serve(one)
    assert label not in [box.label for box in app.selectbox] and not app.metric
    visit_of(app).recent = SessionLibrary({"one": one, "few": few, "another": other})
    app.run()
    assert sorted(choice(app, label).options) == ["another", "few"] and not app.metric
    choice(app, label).set_value("few").run()
    assert LITTLE in sentences(app) and not app.metric
    choice(app, label).set_value("another").run()
    assert not app.exception
    devices = chosen_devices(one.model)
    _, figures = stale(*(served_tokens(trace).trace for trace in (one, other)), devices)
    kept = ["none to keep" if row != row else percent(row).replace("-", "−") for row in figures["kept"]]
    assert [metric.value for metric in app.metric] == kept and len(kept) == 3
    assert any(figures["verdict"][0] in node.value for node in app.markdown)
