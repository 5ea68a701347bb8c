"""The pages that ask: two traces compared, the routing changed, a corpus; and links, in Streamlit's own harness."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from app_pages import MAIN, SECONDS, drawn, go_to, look_at, page, pictures, run, sentences, visit_of
from labels import labelled
from plain_box import TEXT
from safetensors.torch import load_file, save_file
from streamlit.testing.v1 import AppTest
from survey.tiny_models import random_model
from tiny_models import tiny_tokenizer

import moeviz
from moeviz.analyses import what_if as what_if_module
from moeviz.analyses.pruning.checkpoint import Checkpoint
from moeviz.analyses.pruning.curve import pruning_curve
from moeviz.analyses.pruning.rankings import FORMS
from moeviz.charts.comparison import COMPARISONS
from moeviz.charts.multi_trace import CHARTS as OF_SEVERAL
from moeviz.embedded import EMBEDDED, embedded_path
from moeviz.embedded.own_models import FINE
from moeviz.embedded.recorded_routing import ROUTING, texts_over_training
from moeviz.errors import InvalidPrompt
from moeviz.labelled_texts import texts_that_ship
from moeviz.metrics import captions
from moeviz.metrics.contrast import (
    contrast,
    contrast_sentence,
    first_half,
    first_tokens,
    steering_sentence,
    texts_of_label,
    turned,
)
from moeviz.metrics.expert_table import breadth_sentence
from moeviz.metrics.tokens import visible, written_text
from moeviz.recorded_answers import (
    POSITIONS,
    SEED,
    TOKENS,
    recorded_curve,
    recorded_lineage,
    recorded_routes,
    recorded_steering,
)
from moeviz.testing import sample_trace
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service, recorded, run_request
from moeviz_app.jobs.recorded import EXAMPLES
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.server import identity
from moeviz_app.session import session
from moeviz_app.session.library import SessionLibrary
from moeviz_app.views import expert_jobs, expert_table, prune
from moeviz_app.views.compare import SHOWN_KINDS, SHOWN_OF_A_TEXT
from moeviz_app.widgets import pickers
from moeviz_app.widgets.components.texts import Edit, told
from moeviz_app.widgets.messages import escape_markdown

pytestmark = pytest.mark.usefixtures("box_of_widgets")


def compare(*traces) -> AppTest:
    """The Compare page of a visitor who has had these traces, the last one on screen."""
    app = page("moeviz_app.views.compare.compare_page", traces[-1] if traces else None)
    visit_of(app).recent = SessionLibrary({f"trace {number}": trace for number, trace in enumerate(traces)})
    return app.run()


def test_before_there_are_two_traces_the_models_that_ship_stand_side_by_side(trace):
    """Nothing is run for it."""
    for app in (compare(), compare(trace.select(tokens=(trace.tokens["phase"] == "prompt").to_numpy()))):
        assert not app.exception
        assert any("Example, recorded beforehand" in text.value for text in app.markdown)
        assert app.selectbox(key=session.BESIDE).value is not None and len(visit_of(app).recent) < 2
        for at, name in enumerate(ROUTING):
            own = recorded.held_out(name)
            part = own.tokens[own.tokens["label"].isin(SHOWN_KINDS) & (own.tokens["position"] < SHOWN_OF_A_TEXT)]
            texts = [token["text"] for token in drawn(app, f"strip {at}")["tokens"]]
            assert len(texts) == len(SHOWN_KINDS) * SHOWN_OF_A_TEXT
            assert texts[:SHOWN_OF_A_TEXT] == part["text"].head(SHOWN_OF_A_TEXT).map(visible).tolist()
            assert any(text.value.startswith(f"**{escape_markdown(name)}**") for text in app.markdown)
        assert captions.other_texts() not in sentences(app)


def test_two_traces_of_one_model_are_compared_in_every_way_and_a_chart_of_both_stands_below():
    one, other = sample_trace(seed=1), sample_trace(seed=1)
    app = compare(one, other)
    assert not app.exception
    assert pictures(app) == len(COMPARISONS) + 2 + 2, "a chart of both, and the map of each"
    assert "The first is trace 1, the second trace 0." in sentences(app)
    assert [heading.value for heading in app.subheader][: len(COMPARISONS)] == [c.question for c in COMPARISONS]


def test_what_cannot_be_compared_says_why_and_the_rest_is_drawn():
    app = compare(sample_trace(), sample_trace(layers=2, tokens=20, experts=64))
    assert not app.exception
    assert "Choose two traces of the same model" in sentences(app)
    assert "these have 20 and 32 tokens" in sentences(app)
    assert pictures(app) == 1 + 2 + 2  # balance stands for any two; and a chart and a map of each
    wide = sample_trace(layers=48, experts=128)
    app = compare(sample_trace(layers=6), replace(wide, model=replace(wide.model, name="wide")))
    (why,) = (text.value for text in app.text if "expert by expert" in text.value)
    assert "these are wide: layers 0 to 47 with 128 experts; and sample: layers 0 to 5 with 8 experts." in why
    assert not app.expander, "in one sentence"


def what_if(**changes) -> AppTest:
    app = page("moeviz_app.views.what_if.what_if_page")
    for key, value in changes.items():
        app.selectbox(key=key).set_value(value).run()
    return app


@pytest.mark.parametrize("change", ["Mute experts", "Change top-k", "Swap two experts", "Change precision"])
def test_every_change_is_read_both_ways(change):
    app = what_if(change=change)
    (button,) = (button for button in app.button if "with and without" in button.label)
    button.click().run()
    assert not app.exception
    found, _ = visit_of(app).what_if
    assert {metric.label for metric in app.metric} >= {"Loss, unchanged", "Loss, changed", "KL", "Next token changed"}
    assert pictures(app) == 3
    traced = moeviz.trace(moeviz.load_model(), app.text_area(key=session.PROMPT).value)
    unchecked = replace(traced.model, witness=found.plain.model.witness)  # what-if checks the change, not each expert
    assert found.plain.equals(replace(traced, model=unchecked))
    (keep,) = (button for button in app.button if button.label == "Keep both traces")
    keep.click().run()
    assert visit_of(app).trace is found.changed
    assert len(visit_of(app).recent) == 2


def test_what_a_change_did_stands_as_it_was_when_another_model_is_chosen(monkeypatch):
    app = what_if()
    (button,) = (button for button in app.button if "with and without" in button.label)
    button.click().run()
    _, before = visit_of(app).what_if
    assert before["next_token"].map(type).eq(str).all()
    monkeypatch.setattr("moeviz_app.jobs.model_service.model", pytest.fail)  # its tokenizer would read other ids
    app.session_state[session.DTYPE] = "bfloat16"
    app.run()
    assert not app.exception and pictures(app) == 3
    _, after = visit_of(app).what_if
    assert after is before


def test_a_change_that_cannot_be_made_is_one_sentence():
    app = what_if()
    (experts,) = app.multiselect
    experts.set_value(list(range(8))).run()
    (button,) = (button for button in app.button if "with and without" in button.label)
    button.click().run()
    assert not app.exception
    assert "at most 6 can be muted" in sentences(app)


def test_what_if_opens_on_a_change_that_does_something_which_is_read_once_for_all(monkeypatch):
    app = what_if()
    assert not app.exception and pictures(app) == 3 and "instead of" in sentences(app)
    assert float(next(metric.value for metric in app.metric if metric.label == "KL")) > 0.01
    monkeypatch.setattr(model_service, "run_on_model", pytest.fail)
    assert pictures(what_if()) == 3
    assert pictures(what_if(change="Change top-k")) == 0, "another change waits for its button"


def test_contrast_names_experts_and_measures_three_losses_on_other_halves(monkeypatch):
    app = page("moeviz_app.views.contrast.contrast_page")
    texts = recorded.held_out(EMBEDDED)
    pair = tuple(first_half(texts_of_label(first_tokens(texts), kind)) for kind in ("French", "German"))
    found = contrast(pair)
    assert steering_sentence(recorded_steering()) in sentences(app)
    assert not app.exception and pictures(app) == 1 and not app.metric
    assert contrast_sentence(found, ("French", "German")) in sentences(app)
    given = []
    monkeypatch.setattr(what_if_module, "loss_by_set", lambda _model, *of, progress: given.append(of) or LOSSES)
    next(button for button in app.button if button.label == "Measure").click().run()
    assert not app.exception and [metric.value for metric in app.metric] == ["2.900", "3.500", "2.000"]
    said = sentences(app)
    assert "French is predicted better by 0.100 nats per token, German worse by 0.500 nats per token, and" in said
    assert "other kinds as before." in said
    ((sets, change),) = given
    assert change.amounts == turned(found, 2.0)
    labels = [set(texts.tokens["label"].astype(str))] + [set(of.tokens["label"].astype(str)) for of in sets.values()]
    assert labels[1:3] == [{"French"}, {"German"}] and labels[3] <= labels[0] - {"French", "German"}
    plain, changed = visit_of(app).dialled[-1][1]
    prompt = app.text_input(key=session.CONTINUED).value
    assert prompt and written_text(plain, "prompt") == written_text(changed, "prompt") == prompt
    assert [len(trace.tokens) - len(moeviz.trace("embedded", prompt).tokens) for trace in (plain, changed)] == [39, 39]
    biased = moeviz.trace(
        "embedded", prompt, max_new_tokens=40, sampling=moeviz.Sampling(temperature=0.8), intervention=change
    )
    assert changed.tokens["token_id"].equals(biased.tokens["token_id"]) and not plain.tokens.equals(changed.tokens)
    assert [caption.value for caption in app.caption][-2:] == ["As it is", "French turned up by 2"]
    app.selectbox(key=session.SECOND_KIND).set_value("French").run()
    assert "No expert distinguishes French from French" in sentences(app) and not app.metric
    assert not any(button.label == "Measure" for button in app.button)


LOSSES = pd.DataFrame(
    [("French", 90, 3.0, 2.9), ("German", 80, 3.0, 3.5), ("other kinds", 300, 2.0, 2.0)],
    columns=["texts", "tokens", "loss", "loss_changed"],
)


def one_word(app: AppTest, edit: Edit) -> AppTest:
    """The page as it is after somebody has typed that."""
    visit_of(app).word_asked = edit._asdict()
    return app.run()


def strips_of(app: AppTest) -> list[list[tuple[str, str]]]:
    """The tokens of both strips, each with what is said of it."""
    return [[(token["text"], token["what"]) for token in drawn(app, f"word strip {side}")["tokens"]] for side in (0, 1)]


def test_one_word_opens_on_the_example_and_marks_what_the_word_changes(monkeypatch):
    app = page("moeviz_app.views.one_word.one_word_page")
    assert not app.exception and pictures(app) == 1
    assert "“letter” → “code”: 22 of 300 first choices change" in sentences(app)
    layer = app.select_slider[0].value
    before, after = (
        moeviz.trace("embedded", text) for text in (EXAMPLES["Mixed"], EXAMPLES["Mixed"].replace("letter", "code"))
    )
    assert len(before.tokens) == len(after.tokens) + 1, "a word of two tokens became one"
    first = [trace.experts[trace.model.layers.index(layer), :, 0].tolist() for trace in (before, after)]
    changed = [mine != theirs for mine, theirs in zip(first[0][4:], first[1][3:], strict=True)]
    same = ["changed" if differs else "same" for differs in changed]
    one, other = strips_of(app)
    assert [what for _, what in one] == ["same", "same", "new", "new", *same] and any(changed)
    assert [what for _, what in other] == ["same", "same", "new", *same]
    monkeypatch.setattr(model_service, "run_on_model", pytest.fail)
    assert pictures(page("moeviz_app.views.one_word.one_word_page")) == 1, "it was read for all visitors"


def test_a_word_of_a_run_is_typed_over_and_the_address_repeats_it():
    app = go_to(run(visit(), "Il fait froid."), "one-word")
    assert not app.exception and not pictures(app), "a run of one's own waits for a word"
    app = one_word(app, Edit(3, 7, "faisait très"))
    assert "“fait” → “faisait très”: " in sentences(app) and pictures(app) == 1
    assert address(app).items() >= {"word": "3-7", "becomes": "faisait très"}.items()
    other = AppTest.from_file(str(MAIN), default_timeout=SECONDS)
    assert strips_of(go_to(other, "one-word", **address(app))) == strips_of(app)
    app = one_word(app, Edit(0, 2, "x" * 100_000))
    assert "Type a shorter one." in sentences(app) and "“fait”" in sentences(app), "what was shown stays"


@pytest.mark.parametrize(
    "said",
    [None, [], {"start": 0, "end": 1}, {"start": "0", "end": 1, "text": "a"}, {"start": True, "end": 2, "text": "a"}]
    + [{"start": start, "end": end, "text": "a"} for start, end in ((-1, 2), (2, 2), (3, 1), (0, 99))]
    + [{"start": 0, "end": 3, "text": text} for text in ("abc", " ", 5, None)],
)
def test_a_browser_can_say_anything_of_an_edit(said):
    assert told(said, "abc", 10) is None


def test_an_edit_is_checked_against_what_a_text_may_be():
    assert told({"start": 0, "end": 2, "text": "é"}, "abc", 10) == Edit(0, 2, "é")
    with pytest.raises(InvalidPrompt, match=r"11 characters.*10"):
        told({"start": 0, "end": 2, "text": "0123456789"}, "abc", 10)


def test_a_trace_from_a_file_has_no_word_to_change_and_the_example_is_shown_instead():
    app = page("moeviz_app.views.one_word.one_word_page", sample_trace())
    assert "“letter” → “code”" in sentences(app) and pictures(app) == 1


def corpus() -> AppTest:
    return page("moeviz_app.views.corpus.corpus_page")


def test_a_corpus_that_is_too_long_is_one_sentence(monkeypatch):
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, max_corpus_chars=50))
    app = corpus()
    press(app, "Trace the texts")
    assert "and 50 are allowed here" in sentences(app)


def test_a_row_is_added_and_removed_and_a_row_that_lacks_its_label_or_text_is_left_out():
    app = corpus()
    press(app, "Add a text")
    assert len(app.text_input) == len(app.text_area) == 4
    app.text_input[3].set_value("German").run()
    press(app, "Trace the texts")
    assert visit_of(app).trace.tokens["label"].unique().tolist() == [
        "English",
        "French",
        "Python",
    ]  # it has no text yet
    assert pictures(app) >= 3
    app.text_area[3].set_value("Es war kalt.").run()
    press(app, "Trace the texts")
    assert visit_of(app).trace.tokens["label"].nunique() == 4
    for _ in range(3):
        press(app, "Remove the last")
    assert not app.exception
    (last,) = (button for button in app.button if button.label == "Remove the last")
    assert len(app.text_area) == 1 and last.disabled


def test_so_many_texts_can_be_pasted_and_no_more(monkeypatch):
    monkeypatch.setattr("moeviz_app.views.corpus.MOST_PASTED", 5)
    app = corpus()
    for _ in range(2):
        press(app, "Add a text")
    (more,) = (button for button in app.button if button.label == "Add a text")
    assert len(app.text_area) == 5 and more.disabled
    assert "For more, upload a file" in sentences(app)


def visit(**query: str) -> AppTest:
    """A visitor who opens a link."""
    app = AppTest.from_file(str(MAIN), default_timeout=SECONDS)
    for name, value in query.items():
        app.query_params[name] = value
    return app.run()


def address(app: AppTest) -> dict[str, str]:
    """What the browser's address is to end in: written there, where the harness has none."""
    return visit_of(app).address


def test_a_link_that_generates_or_needs_another_model_waits_for_run(monkeypatch):
    """Any web page can lead a browser to this machine: that may cost nothing, and fetch nothing."""
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, allow_any_model=True))
    with monkeypatch.context() as watched:
        watched.setattr(model_service, "run_on_model", pytest.fail)
        app = visit(prompt="One day", new_tokens="3", seed="5")
        assert not app.exception and visit_of(app).trace is None
        assert "press Run on the Explore page" in sentences(app)
        app.run()
        assert "press Run on the Explore page" in sentences(app), "it says so as long as nothing is run"
    assert (app.text_area(key=TEXT).value, app.slider(key=session.NEW_TOKENS).value) == ("One day", 3)
    run(app, "One day")
    assert "press Run on the Explore page" not in sentences(app)
    assert address(app)["new_tokens"] == "3" and address(app)["seed"] == "5"
    monkeypatch.setattr(model_service, "_load", pytest.fail)
    assert "a model that is not loaded" in sentences(visit(prompt="One day", model="/some/folder"))


def test_a_link_to_a_model_in_memory_runs():
    model_service.model("embedded", model_catalog.LoadOptions("bfloat16"))
    app = visit(prompt="One day", dtype="bfloat16")
    assert not app.exception and visit_of(app).trace.model.dtype == "bfloat16"


def test_going_back_shows_the_earlier_trace_without_running_it_again(monkeypatch):
    app = run(run(visit(), "Il fait froid."), "One day")
    later = visit_of(app).trace
    monkeypatch.setattr(model_service, "run_on_model", pytest.fail)
    app.query_params["prompt"] = "Il fait froid."
    app.run()
    assert not app.exception
    assert visit_of(app).trace is not later
    assert "".join(visit_of(app).trace.tokens["text"]) == "<s>Il fait froid."


def test_a_click_that_carries_the_address_of_before_does_not_go_back():
    """The browser had not heard of the new address when the visitor chose another layer."""
    before = address(app := run(visit(), "Il fait froid."))
    run(app, "One day")
    later, now = visit_of(app).trace, address(app)
    for name, value in before.items():
        app.query_params[name] = value
    app.session_state[session.LAYER] = 1
    app.run()
    assert not app.exception
    assert visit_of(app).trace is later and app.text_area(key=TEXT).value == "One day"
    assert address(app) == now | {"layer": "1"}


def test_an_address_that_asks_for_nonsense_shows_the_prompt_without_it():
    app = visit(prompt="One day", layer="99", token="99999")
    assert not app.exception
    assert visit_of(app).trace.equals(moeviz.trace(moeviz.load_model(), "One day", next_tokens=True))
    assert visit_of(app).token is None


def test_an_address_cannot_load_what_a_visitor_may_not(monkeypatch):
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, allow_any_model=False))
    app = visit(prompt="One day", model="some/model")
    assert not app.exception
    assert "not available here" in sentences(app)
    assert visit_of(app).trace is None


def test_a_trace_from_a_file_and_a_long_prompt_have_no_address(trace, monkeypatch):
    monkeypatch.setattr(run_request, "LONGEST", 40)
    app = run(visit(), "Il fait froid.")
    visit_of(app).trace = trace
    app.run()
    assert address(app) == {}
    assert RunRequest("x" * 41, "embedded").parameters()["prompt"]
    app = run(visit(), "a " * 21)
    assert not app.exception and address(app) == {}


def test_labels_of_a_corpus_are_not_run_as_markdown(trace):
    app = page("moeviz_app.views.corpus.corpus_page", labelled(trace, ("![x](http://example.com)", "b")))
    assert not app.exception
    assert "example.com" not in "".join(markdown.value for markdown in app.markdown)


def test_a_model_with_routers_of_several_kinds_asks_which(monkeypatch, tmp_path):
    model = random_model("switch_transformers")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, models=(str(tmp_path),)))
    app = visit()
    assert app.radio(key=session.SITE).options == ["encoder", "decoder"]
    app.radio(key=session.SITE).set_value("decoder").run()
    app.slider(key=session.NEW_TOKENS).set_value(4).run()
    app = run(app, "One day")
    assert not app.exception
    assert visit_of(app).trace.model.site == "decoder"
    assert address(app)["site"] == "decoder"


def test_the_timeline_shows_all_families_or_those_chosen():
    app = page("moeviz_app.views.timeline.timeline_page")
    assert not app.exception and pictures(app) == 2
    app.multiselect(key=session.FAMILIES).set_value(["Google"]).run()
    assert not app.exception and pictures(app) == 2


def test_what_keeps_experts_alive_can_be_set_and_its_words_are_explained():
    app = page("moeviz_app.views.history.story.collapse_panel")
    assert not app.exception
    (heading,) = app.subheader
    assert {"**collapse**", "**dead expert**", "**capacity**"} <= {*re.findall(r"\*\*[^*]+\*\*", heading.help)}
    data = drawn(app, "collapse")
    levels = {knob["key"]: knob["levels"] for knob in data["knobs"]}
    assert all(preset.keys() == levels.keys() for preset in data["presets"].values())
    assert all(value in levels[key] for preset in data["presets"].values() for key, value in preset.items())
    nothing, *_, without_lean = data["presets"].values()
    assert [key for key, value in nothing.items() if value] == ["lean"] and not any(without_lean.values())
    assert len(data["colours"]) == data["sizes"]["experts"] == 8


MIXTRAL = "moeviz_app.views.history.mixtral.mixtral_page"
EXHIBIT = "moeviz_app.views.history.gallery.exhibit_page"


def press(app: AppTest, label: str) -> AppTest:
    (button,) = (button for button in app.button if button.label == label)
    return button.click().run()


@pytest.mark.parametrize("file", ["mixtral", "local_experts_1991", "switch_2021"])
def test_every_page_of_the_gallery_opens_at_once_and_hands_its_trace_over(file):
    app = page(MIXTRAL) if file == "mixtral" else page(EXHIBIT, None, file)
    assert not app.exception
    assert pictures(app) >= 2
    assert "This is the result that ships" in sentences(app) or file == "mixtral"
    questions = " ".join(heading.value for heading in app.subheader)
    assert "kind of text" not in questions or file == "mixtral", "its labels are vowels, or digits"
    press(app, "Take it to other pages")
    assert not app.exception and "Something is to be seen on" in sentences(app)
    trace = visit_of(app).trace
    if trace.model.backend == "mixture":
        assert [name[:20] for name in visit_of(app).recent] == [trace.model.name[:20]]
    assert len(trace.tokens) and trace.model.backend in ("mixture", "transformers")


def test_the_mixture_of_1991_is_trained_the_same_from_the_same_seed_and_becomes_the_trace():
    traces = []
    for _ in range(2):
        app = page(EXHIBIT, None, "local_experts_1991")
        assert "This is the result that ships" in sentences(app)
        app.selectbox(key="local-experts error").set_value("competitive").run()
        press(app, "Train")
        assert not app.exception and pictures(app) == 3
        assert {metric.label: metric.value for metric in app.metric}["Experts left"] == "2"
        assert "synthetic stand-in" in sentences(app) and "error competitive" in sentences(app)
        press(app, "Take it to other pages")
        traces.append(visit_of(app).trace)
    assert traces[0].equals(traces[1]) and traces[0].model.layer_kind == "epoch"
    press(app, "Back to the one that ships")
    assert "This is the result that ships" in sentences(app)


def clicked(layer, expert, key="load_heatmap 0"):
    """What a click on a mark of that chart makes of a visit to the Load page."""

    def script(layer, expert, key):
        from types import SimpleNamespace

        import streamlit as st

        from moeviz.charts import NAMED
        from moeviz.testing import sample_trace
        from moeviz_app.session import session
        from moeviz_app.widgets import chart_panel, expert_links

        point = {"layer": layer, "expert": expert}
        chosen = [{name: value for name, value in point.items() if value is not None}]
        st.session_state[key] = SimpleNamespace(selection={"expert": chosen})
        chart_panel._follow_mark(key, NAMED[key.split()[0]], sample_trace().select(layers=[1, 2]).model)
        st.text(f"{session.value(expert_links.ASKED)} {expert_links.steps()}")

    app = AppTest.from_function(script, default_timeout=SECONDS, args=(layer, expert, key)).run()
    assert not app.exception
    return app.text[0].value


@pytest.mark.parametrize(
    "point, asked",
    [
        ((2, 5), "(2, 5) 1"),
        ((2, 32_767), "None 0"),  # the band of all other experts
        ((None, 5), "None 0"),
        ((7, 5), "None 0"),
    ],
)
def test_a_click_asks_for_an_expert_that_the_model_has(point, asked):
    assert clicked(*point) == asked


def test_a_mark_of_one_layer_need_not_name_it():
    assert clicked(None, 3, "kinds_heatmap 0") == "(1, 3) 1"


def test_pages_whose_marks_are_experts_have_a_way_there_by_the_keyboard(trace):
    def ways(topic: str) -> list[str]:
        app = page("moeviz_app.views.topic.topic_page", trace, topic)
        return [box.label for box in app.selectbox if box.key.startswith(("layer of", "number of"))]

    assert ways("Load") == ["Layer", "Expert"]
    assert ways("Losses") == []


def three(*traces) -> AppTest:
    """The Compare page with a third trace chosen beside the first two."""
    app = compare(*traces)
    for number, key in enumerate(pickers.KEYS):
        app.session_state[key] = f"trace {number}"
    app.run()
    assert not app.exception
    return app


def test_three_models_stand_side_by_side_on_one_text():
    eight, eight_more, many = (sample_trace(experts=experts, top_k=k) for experts, k in ((8, 2), (8, 2), (31, 7)))
    app = three(eight, eight_more, many)
    asked = [chart.question for chart in OF_SEVERAL]
    assert [heading.value for heading in app.subheader][: len(asked)] == asked
    told = sentences(app)
    assert "trace 0 8 of 28 (19), trace 1 8 of 28 (19), trace 2 32 of 2,629,575 (32)" in told
    assert "not of the same tokens" not in told
    assert "needs tokens with a label" in told, "there are no labels"
    assert pictures(app) == len(OF_SEVERAL) - 1 + 3 + 3, "a chart each, one of each trace, and the map of each"
    strips = [drawn(app, f"strip {at}")["tokens"] for at in range(3)]
    for strip, trace in zip(strips, (eight, eight_more, many), strict=True):
        assert [token["text"] for token in strip] == trace.tokens["text"].map(visible).tolist()
    assert strips[0] == strips[1] != strips[2]


def test_the_strips_show_the_layer_of_each_model_at_one_depth():
    app = three(sample_trace(layers=4), sample_trace(layers=2), sample_trace(layers=7))
    (slider,) = app.select_slider
    slider.set_value(1.0).run()
    assert [text.value for text in app.markdown if "** · layer" in text.value] == [
        "**trace 0** · layer 3",
        "**trace 1** · layer 1",
        "**trace 2** · layer 6",
    ]


def test_three_of_other_texts_and_with_less_in_them_say_so():
    trace = sample_trace()
    bare = replace(trace, model=replace(trace.model, slot_order="unknown"), weights=None, logits=None)
    app = three(labelled(trace), sample_trace(tokens=20), bare)
    told = sentences(app)
    assert told.index("not of the same tokens") < told.index("Load of the busiest expert")
    assert "There is no line for trace 2: it lacks" in told
    assert "There is no line for trace 1 and trace 2: they lack" in told


def test_what_kept_the_load_even_is_said_of_our_own_models_alone():
    ours = [replace(sample_trace(), model=replace(sample_trace().model, name=name)) for name in ("embedded", "other")]
    assert "kept even" not in sentences(three(ours[1], ours[1], ours[1]))
    told = sentences(three(ours[0], ours[1], ours[1]))
    assert "kept even in trace 0 by a loss over the batch; of trace 1 and trace 2 it is not known." in told


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("embedded", "embedded-natural"), "both embedded models"),
        (("embedded", "embedded-natural", "embedded-fine"), "all three embedded models"),
    ],
)
def test_all_embedded_models_that_are_here_run_one_text(monkeypatch, names, words):
    """Of tiny ones, which are looked for where those would be."""
    listed = replace(settings.SETTINGS, models=names)
    monkeypatch.setattr("moeviz_app.views.compare.installed", lambda: names[:1])
    app = compare(sample_trace(), sample_trace(seed=1))
    assert not [button for button in app.button if "embedded models" in button.label], "they are not here"
    monkeypatch.setattr(settings, "SETTINGS", listed)
    monkeypatch.setattr("moeviz_app.views.compare.installed", lambda: names)

    def made(run, key):
        trace = sample_trace(experts=31 if run.model.endswith("fine") else 8, top_k=2)
        trace = replace(trace, model=replace(trace.model, name=run.model))
        session.set_trace(trace, run)
        return trace

    monkeypatch.setattr("moeviz_app.views.compare.record", made)
    app = compare(sample_trace(), sample_trace(seed=1))
    (button,) = (button for button in app.button if "embedded models" in button.label)
    assert button.label.endswith(words)
    button.click().run()
    assert not app.exception
    chosen = [app.session_state[key] for key in pickers.KEYS]
    assert [visit_of(app).recent[key].model.name for key in chosen if key] == [*names]


def test_figures_of_three_are_worked_out_once_and_anew_for_other_traces(monkeypatch):
    app = three(sample_trace(seed=1), sample_trace(seed=2), sample_trace(seed=3))
    first = visit_of(app).results["figures of several"][1]
    monkeypatch.setattr("moeviz_app.views.compare.figures_of_several", pytest.fail)
    (slider,) = app.select_slider
    slider.set_value(1.0).run()
    assert not app.exception and visit_of(app).results["figures of several"][1] is first
    monkeypatch.undo()
    app.selectbox(key=session.THIRD_TRACE).set_value("trace 0").run()
    assert not app.exception and visit_of(app).results["figures of several"][1] is not first


def test_two_models_are_compared_by_what_holds_for_each_and_expert_by_expert_with_a_warning():
    """An expert's number is all that two models' experts have in common."""
    one, other = sample_trace(seed=1), sample_trace(seed=2)
    other = replace(other, model=replace(other.model, name="another"))
    app = compare(one, other)
    assert not app.exception
    asked = [chart.question for chart in OF_SEVERAL]
    headings = [heading.value for heading in app.subheader]
    assert headings[headings.index(asked[0]) :][: len(asked)] == asked
    (unfolds,) = (box for box in app.expander if box.label.startswith("Expert by expert"))
    assert "expert 3 of one has nothing to do with expert 3 of the other" in unfolds.text[0].value
    assert [heading.value for heading in unfolds.subheader] == [chart.question for chart in COMPARISONS]
    assert "nothing to do with" not in sentences(compare(one, sample_trace(seed=2)))


def test_prune_measures_what_cuts_cost_and_offers_files_to_cut_by(monkeypatch, tmp_path):
    monkeypatch.setattr(prune, "FIRST_TOKENS", 12)
    monkeypatch.setattr(prune, "DRAWS", 2)
    monkeypatch.setattr(identity, "may_keep_on_disk", lambda: True)
    monkeypatch.setattr("moeviz_app.views.corpus.texts_that_ship", lambda: texts_that_ship()[::10])
    app = page("moeviz_app.views.prune.prune_page")
    assert not app.exception and not pictures(app)
    press(app, "Measure")
    assert not app.exception and pictures(app) == 2
    assert "texts judged, by the split of seed 0" in sentences(app) and "at random" in sentences(app)
    assert any("first 12 tokens are read" in node.value for node in app.markdown)
    (said,) = [text.value for text in app.text if text.value.startswith("layer 0: ")]
    assert said.count(";") == 5, "an expert of each layer"
    assert [one.label for one in app.get("download_button")][-3:] == [f"For {form}" for form in FORMS]
    monkeypatch.setattr("moeviz.analyses.pruning.curve.pruning_curve", pytest.fail)
    app.session_state[session.CUT] = 2
    app.run()
    assert not app.exception and pictures(app) == 2, "it is known"
    assert next(text.value for text in app.text if text.value.startswith("layer 0: ")).count(",") == 6
    for folder, says in ((tmp_path / "none" / "a", "There is no folder"), (tmp_path / "smaller", "6 of 8 experts")):
        app.text_input(key=session.SMALLER).set_value(str(folder)).run()
        press(app, "Write the model without them")
        assert not app.exception and says in sentences(app)
    assert load_file(tmp_path / "smaller" / "model.safetensors")
    app.multiselect(key=session.CRITERIA).set_value(["gate_mass"]).run()
    assert not app.exception and not pictures(app), "of other criteria nothing is known"


def test_prune_opens_with_what_was_recorded_and_a_part_of_it_comes_again(monkeypatch):
    """Of the texts that ship; of other texts, other criteria and another precision nothing is shown before Measure."""
    monkeypatch.setattr("moeviz.analyses.pruning.curve.pruning_curve", pytest.fail)
    app = page("moeviz_app.views.prune.prune_page")
    assert not app.exception and pictures(app) == 2
    app.multiselect(key=session.CRITERIA).set_value(["greatest"]).run()
    assert not app.exception and not pictures(app)
    monkeypatch.undo()
    known, how = recorded_curve(texts_that_ship()), {"criteria": ("frequency",), "cuts": (1,)}
    again = pruning_curve(moeviz.load_model(), texts_that_ship(), tokens=TOKENS, seed=SEED, **how)
    assert again.loss == pytest.approx(known.loss, abs=1e-4) and (again.chose, again.judged) == (
        known.chose,
        known.judged,
    )
    assert known.cut("frequency", 1) == again.cut("frequency", 1) and known.blocks == again.blocks
    rows = known.losses[(known.losses["criterion"] == "frequency") & (known.losses["cut"] == 1)]
    pd.testing.assert_frame_equal(rows.reset_index(drop=True), again.losses, atol=1e-4)
    pd.testing.assert_frame_equal(known.scores, again.scores, rtol=1e-3, check_dtype=False)


def test_routes_open_with_what_was_recorded_and_a_part_of_it_comes_again():
    app, known = page("moeviz_app.views.routes.routes_page", recorded.held_out(EMBEDDED)), recorded_routes()
    assert not app.exception and pictures(app) == 3
    again = moeviz.route_regret(moeviz.load_model(), texts_over_training()[:2], positions=POSITIONS)
    first = known.cells["sequence"].isin([0, 1]).to_numpy()
    assert np.abs(known.losses[first] - again.losses).max() < 1e-3
    assert (known.routes[first] == again.routes).all() and known.every and known.left_out == again.left_out
    pd.testing.assert_frame_equal(known.cells[first].reset_index(drop=True).iloc[:, :7], again.cells.iloc[:, :7])


def test_what_turning_experts_up_does_comes_again_as_it_was_recorded():
    known, texts = recorded_steering(), first_tokens(recorded.held_out(EMBEDDED))
    halves = (first_half(texts_of_label(texts, kind)) for kind in (known.first, known.second))
    of_kind = texts_of_label(texts, known.first)
    each = of_kind.tokens["sequence"].unique()
    sets = {
        name: of_kind.select(tokens=of_kind.tokens["sequence"].isin(each[begin::2]).to_numpy())
        for begin, name in enumerate(("chosen", "judged"))
    }
    bias = moeviz.Bias(turned(contrast(tuple(halves)), known.amount))
    again = what_if_module.loss_by_set(moeviz.load_model(), sets, bias)
    change = again["loss_changed"] - again["loss"]
    assert change.tolist() == pytest.approx([known.chosen, known.judged], abs=1e-4)


def test_the_recorded_lineage_comes_again_from_a_checkpoint_that_is_cut_so(tmp_path):
    known, child = recorded_lineage(), tmp_path / "embedded-cut"
    Checkpoint.of(EMBEDDED, None).write(child, recorded_curve(texts_that_ship()).cut("reap", 1), {})
    again = moeviz.lineage(EMBEDDED, str(child))
    pd.testing.assert_frame_equal(known.table, again.table)
    assert known.says == [line.replace(str(child), known.child) for line in again.says]
    assert (known.layers, known.formats, known.left_out) == (again.layers, again.formats, again.left_out)


def test_lineage_compares_two_checkpoints_and_draws_what_became_of_the_experts(monkeypatch, tmp_path):
    tensors = load_file(embedded_path() / "model.safetensors")
    kept = {name: values for name, values in tensors.items() if ".experts." in name and ".experts.7." not in name}
    save_file(kept, tmp_path / "child.safetensors")
    child = str(tmp_path / "child.safetensors")
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, models=("embedded", child)))
    asked = []
    monkeypatch.setattr(model_catalog, "check_on_offer", asked.append)
    app = page("moeviz_app.views.lineage.lineage_page")
    assert not app.exception and pictures(app) == 2 and "6 of embedded’s were cut" in sentences(app)
    next(button for button in app.button if button.label == "Compare").click().run()
    assert not app.exception and pictures(app) == 2 and asked == ["embedded", child]
    said = f"42 experts of {child}, against the experts of embedded: 42 kept; 6 of embedded’s were cut."
    assert said in sentences(app)
    monkeypatch.setattr("moeviz.analyses.lineage.lineage", pytest.fail)
    app.select_slider[0].set_value(5).run()
    assert not app.exception and pictures(app) == 2, "it is known"
    app.selectbox(key=session.CHILD).set_value("embedded").run()
    assert said not in sentences(app) and not pictures(app)


TABLE = "moeviz_app.views.expert_table.expert_table_page"


def test_the_table_of_all_experts_is_there_at_once_for_our_own_models(monkeypatch):
    monkeypatch.setattr(expert_table, "_table", pytest.fail)
    app = page(TABLE)
    for name, experts in ((EMBEDDED, 48), (FINE, 186)):
        look_at(app, name)
        assert not app.exception and pictures(app) == 1
        shown = app.dataframe[-1].value
        assert len(shown) == experts and {"share", "added", "breadth"} <= {*shown}
        assert ("loss_change" in shown) == (name == EMBEDDED)
        assert breadth_sentence(recorded.expert_table(name)) in sentences(app)


def test_a_trace_without_outputs_says_so_and_is_read_again_with_them():
    trace = moeviz.trace_corpus(moeviz.load_model(), [("sums", "12 + 7 = 19"), ("prose", "It is cold.")])
    app = page(TABLE, trace)
    look_at(app, "trace")
    assert not app.exception and expert_table.NOT_RECORDED in sentences(app) and not pictures(app)
    assert {"share", "mean_weight"} <= {*app.dataframe[-1].value} and "added" not in app.dataframe[-1].value
    press(app, expert_table.READ)
    while expert_jobs.JOB in visit_of(app).results:
        app.run()
    assert not app.exception and pictures(app) == 1 and expert_table.NOT_RECORDED not in sentences(app)
    again = visit_of(app).trace
    assert again.outputs is not None and (again.experts == trace.experts).all()
    assert again.tokens["label"].tolist() == trace.tokens["label"].tolist()
    assert app.dataframe[-1].value["added"].notna().any()


def test_a_trace_that_cannot_be_read_here_says_why_nothing_is_known_of_outputs(trace):
    app = page(TABLE, replace(trace, model=replace(trace.model, name="a/file.gguf")))
    look_at(app, "trace")
    assert not app.exception and expert_table.NOT_RECORDED in sentences(app) and not app.button
    empty = page(TABLE, trace.select(tokens=slice(0, 0)))
    look_at(empty, "trace")
    assert not empty.exception and "contains no tokens" in sentences(empty)
