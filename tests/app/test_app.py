"""The app's logic, in Streamlit's own test harness: what is on a page, and what it says where something is missing."""

from copy import deepcopy
from dataclasses import replace

import pandas as pd
import pytest
from app_pages import (
    HOSTILE,
    MAIN,
    SAFE_ELEMENTS,
    drawn,
    first_page,
    go_to,
    pictures,
    run,
    sentences,
    topic_page,
    traces_page,
    visit_of,
)
from labels import labelled
from plain_box import TEXT
from streamlit import config
from streamlit.testing.v1 import AppTest

import moeviz
from moeviz.charts import TOPICS, specialization
from moeviz.charts.theme import MAX_TOKENS
from moeviz.embedded import EMBEDDED
from moeviz.embedded.recorded_routing import example_trace
from moeviz.errors import ModelNotFound
from moeviz.formats.exports import EXPORTS
from moeviz.metrics.findings import findings
from moeviz.metrics.load import expert_load, load_caption
from moeviz.metrics.parameters import touched_growth
from moeviz.routing_trace import NO_EXPERT, RoutingTrace
from moeviz.testing import sample_trace
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service, recorded
from moeviz_app.session import session
from moeviz_app.views.explore import EXPLORER
from moeviz_app.widgets import run_panel, subject_bar
from moeviz_app.widgets.components.texts import PART_OF_CHARACTER
from moeviz_app.widgets.files import file_stem

pytestmark = pytest.mark.usefixtures("box_of_widgets")
config._main_script_path = str(MAIN)  # as `streamlit run` does, so that the app's own settings hold here too


def strip(trace: RoutingTrace, layer: int | None = None, window: int = 1) -> dict:
    """The strip of the Tokens page."""
    app = topic_page("Tokens", trace)
    if layer is not None:
        app.select_slider(key=session.LAYER).set_value(layer).run()
    if window > 1:
        app.session_state[session.WINDOW] = window
        app.run()
    assert not app.exception
    return drawn(app, session.STRIP)


def with_texts(trace: RoutingTrace, texts: tuple[str, ...]) -> RoutingTrace:
    """The same trace, its first tokens and every name of its model something else."""
    text = pd.Series([*texts, *trace.tokens["text"][len(texts) :]], dtype="str")
    names = dict(zip(("name", "layer_kind", "backend", "dtype", "revision"), texts, strict=False))
    return replace(trace, tokens=trace.tokens.assign(text=text), model=replace(trace.model, **names))


@pytest.fixture(scope="module")
def real_trace() -> RoutingTrace:
    """A trace of the embedded model, which also knows its parameters."""
    return moeviz.trace("embedded", "Il fait froid.\ndef f(x):\n    return x", max_new_tokens=4)


def test_the_first_page_shows_the_example_and_what_the_model_is():
    app = first_page()
    assert not app.exception
    said = [markdown.value for markdown in app.markdown]
    assert ":gray-badge[example of this place]" in said
    info = moeviz.load_model().info
    assert any(f"{len(info.layers)} layers × {info.num_experts[0]} experts" in words for words in said)
    assert drawn(app, EXPLORER)["id"] == drawn(first_page(example_trace()), EXPLORER)["id"]
    facts = {metric.label: metric.value for metric in app.metric}
    assert facts["MoE layers"] == f"{len(info.layers)} of {info.num_layers}"
    run(app, "One day")
    assert ":gray-badge[example of this place]" not in [markdown.value for markdown in app.markdown]


def test_run_shows_the_trace_that_the_library_records():
    app = run(first_page(), "Il fait froid.")
    assert not app.exception
    assert visit_of(app).trace.equals(moeviz.trace(moeviz.load_model(), "Il fait froid.", next_tokens=True))
    assert pictures(app) > 0
    assert drawn(app, EXPLORER)["texts"][0] == "<s>"
    touched = touched_growth(visit_of(app).trace)["touched"].iloc[-1]
    assert any(fact.label == "Touched" and f"{touched:,}" in fact.help for fact in app.metric)


def test_generated_tokens_are_marked_and_the_seed_repeats_them():
    app = first_page()
    app.slider(key=session.NEW_TOKENS).set_value(5).run()
    app.slider(key=session.TEMPERATURE).set_value(1.0).run()
    first = visit_of(run(app, "One day")).trace
    run_panel.forget()  # else it would be shown what it has made already
    assert visit_of(run(app, "One day")).trace.equals(first)
    tokens = strip(first)["tokens"]
    phases = [token["phase"] for token in tokens]
    assert phases == list(first.tokens["phase"])
    assert tokens[phases.index("generated")]["mark"] == "generated"
    assert drawn(app, "written")["given"] == "One day"


def test_the_checkpoint_s_own_settings_are_a_choice_and_the_page_says_which_they_are():
    app = first_page()
    app.slider(key=session.NEW_TOKENS).set_value(3).run()
    app.slider(key=session.TEMPERATURE).set_value(1.0).run()
    app.selectbox(key=session.DECODING).set_value("checkpoint").run()
    assert app.slider(key=session.TEMPERATURE).disabled and not app.number_input(key=session.SEED).disabled
    run(app, "One day")
    assert not app.exception
    own = "the checkpoint's own settings: sampled at temperature 0.7, top-k 40, seed 0"
    assert f"How tokens were generated: {own}" in [text.value for text in app.text]


def test_the_chosen_token_shows_its_way_through_the_layers(trace):
    app = topic_page("Tokens", trace)
    before = pictures(app)
    assert "none is selected" in sentences(app)
    visit_of(app).token = 3
    app.run()
    assert "none is selected" not in sentences(app)
    assert pictures(app) == before + 1
    assert drawn(app, session.STRIP)["selected"] == 3


def test_the_explorer_opens_at_the_first_finding_and_then_where_the_visitor_is(trace):
    app = first_page(example_trace())
    first = findings(example_trace(), recorded.held_out("embedded"))[0]
    assert drawn(app, EXPLORER)["at"] == [first.layer, first.token]
    assert [app.session_state[session.LAYER], visit_of(app).token] == [first.layer, first.token]
    app.session_state[session.LAYER], visit_of(app).token = 1, 7
    app.run()
    assert drawn(app, EXPLORER)["at"] == [1, 7]


def test_a_caution_stands_beside_the_trace_as_plain_text(trace):
    app = first_page(replace(trace, model=replace(trace.model, caution="**Experts** 0 and 1 run.", site="encoder")))
    texts = [text.value for text in app.text]
    assert "Caution: **Experts** 0 and 1 run." in texts
    assert any("(its encoder routers)" in text for text in texts)


@pytest.mark.parametrize("chosen, by", [(None, "hooks"), ("on", "kernels (plain torch)"), ("off", "hooks")])
def test_the_kernels_are_switched_in_the_options_and_the_page_says_who_recorded(chosen, by):
    app = first_page()
    app.selectbox(key=session.KERNELS).set_value(chosen)
    run(app, "Il fait froid.")
    assert not app.exception
    assert any(text.value.endswith(f"in float32, recorded by {by} in transformers") for text in app.text)


def test_the_strip_shows_the_first_choice_of_the_chosen_layer(trace):
    tokens = strip(trace, layer=2)["tokens"]
    assert [token["expert"] for token in tokens] == [str(expert) for expert in trace.experts[2, :, 0]]
    assert len({token["colour"] for token in tokens if token["expert"] == tokens[0]["expert"]}) == 1


@pytest.mark.parametrize("topic", TOPICS)
def test_each_topic_page_draws_every_chart_of_its_topic(topic, real_trace):
    longer = recorded.evaluation_routing()  # vocabularies are told of tokens that occur ten times
    app = topic_page(topic, longer if topic == "Specialization" else labelled(real_trace))
    assert not app.exception
    one_token = sum(chart.tokens == "one" for chart in TOPICS[topic])
    assert pictures(app) == len(TOPICS[topic]) - one_token
    others = [button.label for button in app.button if button.key.startswith("show ")]
    assert {*others, *(heading.value for heading in app.subheader)} == {chart.question for chart in TOPICS[topic]}


@pytest.mark.parametrize("topic", [None, "Load", "Specialization"])
def test_a_trace_without_tokens_is_explained(topic, real_trace):
    empty = real_trace.select(tokens=slice(0, 0))
    app = first_page(empty) if topic is None else topic_page(topic, empty)
    assert not app.exception
    assert "This trace contains no tokens" in sentences(app)
    assert pictures(app) == 0


def test_a_dropped_token_has_no_expert_and_no_colour(trace):
    experts, weights = trace.experts.copy(), trace.weights.copy()
    experts[0, 3], weights[0, 3] = NO_EXPERT, 0
    dropped = strip(replace(trace, experts=experts, weights=weights))["tokens"][3]
    assert (dropped["choice"], dropped["expert"], dropped["colour"]) == ("no expert", "–", None)


@pytest.mark.parametrize("topic", ["Load", "Specialization", "Confidence", "Flow"])
def test_what_expert_ids_alone_cannot_show_is_explained(topic, ids_only_trace):
    app = topic_page(topic, ids_only_trace)
    assert not app.exception
    explanations = [icon for icon in app.markdown if icon.value == ":material/info:"]
    others = sum(text.value.count("?") for text in app.text if text.value.startswith("The same goes for: "))
    without_labels = (len(specialization.CHARTS) - 1) * (topic == "Specialization")  # one sentence in place of them
    assert pictures(app) + len(explanations) + others + without_labels == len(TOPICS[topic])
    assert others == (2 if topic == "Specialization" else 0), "what several lack is said once"
    assert sentences(app).count("and this trace (sample) has none.") == (topic == "Load")
    marks = [mark for mark in app.markdown if mark.value == ":orange-badge[Built\\-in model, not sample]"]
    is_instead = topic in ("Confidence", "Losses", "Parameters")  # another trace is drawn, and marked
    assert bool(marks) == is_instead


def test_a_trace_without_labels_is_one_sentence_in_place_of_the_charts_of_kinds(trace):
    app = topic_page("Specialization", trace)
    assert not app.exception and sentences(app).count("label") == 1
    assert not {chart.question for chart in specialization.CHARTS} & {heading.value for heading in app.subheader}


def test_every_chart_can_be_made_the_large_one_and_says_how_its_numbers_are_computed(real_trace):
    app = topic_page("Load", real_trace)
    for chart in (*TOPICS["Load"][1:], TOPICS["Load"][0]):
        app.button(key=f"show {chart.key}").click().run()
        assert [heading.value for heading in app.subheader] == [chart.question]
        assert chart.method.splitlines()[0] in sentences(app)
        assert f"show {chart.key}" not in [button.key for button in app.button]


def test_a_chart_says_what_stands_out_and_keeps_silent_where_nothing_does_or_layers_are_none():
    trace = sample_trace(tokens=200)
    told = load_caption(expert_load(trace))
    assert told and told in sentences(topic_page("Load", trace))
    steps = replace(trace, model=replace(trace.model, layer_kind="time step"))
    assert told not in sentences(topic_page("Load", steps))


def test_the_same_layer_cannot_be_compared_with_itself(trace):
    app = topic_page("Layers", trace)
    one, other = (app.selectbox(key=key) for key in (session.FIRST_LAYER, session.SECOND_LAYER))
    assert one.value not in [int(option) for option in other.options]
    other.set_value(2).run()
    assert not app.exception
    assert "2" not in app.selectbox(key=session.FIRST_LAYER).options


def test_a_prompt_over_the_context_is_told_how_much_fits_and_is_kept(trace):
    prompt = "one two three " * 500
    app = run(first_page(trace), prompt)
    limit = moeviz.load_model().max_tokens
    assert f"a prompt of {limit:,} tokens fits" in sentences(app)
    assert app.text_area(key=TEXT).value == prompt
    assert visit_of(app).trace is trace


def test_a_model_that_fails_is_a_sentence_on_the_page_and_the_whole_story_in_the_log(monkeypatch, trace, caplog):
    monkeypatch.setattr("moeviz.capture.trace.capture", lambda *_, **__: 1 / 0)
    app = run(first_page(trace), "One day")
    assert "The model failed in this run (ZeroDivisionError)" in sentences(app) and not app.exception
    assert "division by zero" in caplog.text


def test_a_bug_is_loud_in_the_log_and_short_on_the_page(monkeypatch, trace, capsys):
    monkeypatch.setattr(run_panel, "wait_for", lambda *_, **__: 1 / 0)
    app = run(first_page(trace), "One day")
    assert "This app has encountered an error." in app.exception[0].value
    assert "division by zero" in capsys.readouterr().out


@pytest.fixture
def offered(monkeypatch):
    """Let the deployment offer one model."""

    def offer(name, **more):
        monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, models=(name,), **more))

    return offer


def test_a_model_that_does_not_exist_is_one_sentence(offered, tmp_path, trace):
    offered(str(tmp_path / "nothing"))
    app = run(first_page(trace), "text")
    assert not app.exception
    assert sentences(app).count("There is no model at") == 1
    assert visit_of(app).trace is trace


def test_a_model_that_is_not_on_offer_is_not_even_looked_at(offered, monkeypatch):
    offered("embedded", allow_any_model=False)
    monkeypatch.setattr(model_service, "_load", pytest.fail)
    monkeypatch.setattr(model_catalog, "facts_of_any", pytest.fail)
    for read in (model_service.model, model_catalog.facts):
        with pytest.raises(ModelNotFound, match="embedded"):
            read("some/model")


def test_without_a_setting_only_this_machine_may_name_a_model(offered):
    assert "type a folder" not in first_page().selectbox(key=session.MODEL).label  # the harness names no host
    offered("embedded", allow_any_model=True)
    assert "type a folder" in first_page().selectbox(key=session.MODEL).label


@pytest.mark.parametrize("export", [export for export in EXPORTS if export.read][:2], ids=lambda export: export.suffix)
def test_an_opened_file_is_the_trace_on_screen(export, trace):
    app = traces_page()
    app.file_uploader(key=session.UPLOAD).upload(f"mine{export.suffix}", export.write(trace), export.mime).run()
    assert not app.exception
    assert visit_of(app).trace.equals(export.read(export.write(trace)))
    assert "Opened." in app.success[0].value


@pytest.mark.parametrize(
    ("name", "data"), [("broken.npz", b"PK\x03\x04 not a zip"), ("prices.csv", b"fruit,price\napple,3\n")]
)
def test_a_file_that_holds_no_trace_is_explained_and_the_last_trace_stays(name, data, trace):
    app = traces_page(trace)
    before = len(app.text)
    app.file_uploader(key=session.UPLOAD).upload(name, data, "application/octet-stream").run()
    assert not app.exception
    assert len(app.text) == before + 1
    assert visit_of(app).trace is trace


def unsafe_elements(app: AppTest) -> list[str]:
    """Everything on the page that Streamlit may read as Markdown or HTML, labels and help texts too.

    The options of a list that unfolds, and the chosen one, are plain text.
    """
    read = []
    for node in app:
        if hasattr(node, "proto") and node.type not in SAFE_ELEMENTS:
            read.append(deepcopy(node.proto))
            if node.type == "selectbox":
                read[-1].ClearField("options")
                read[-1].ClearField("raw_value")
    return [str(proto) for proto in read]


@pytest.mark.parametrize("topic", [None, "Tokens", "Specialization", "Placement"])
def test_tokens_and_names_never_reach_markdown_or_html(topic, real_trace):
    trace = labelled(with_texts(real_trace, HOSTILE), HOSTILE)
    app = first_page(trace) if topic is None else topic_page(topic, trace)
    assert not app.exception
    everything = "\n".join(unsafe_elements(app))
    assert "How is this computed?" in everything
    assert not [text for text in HOSTILE if text in everything]
    assert topic is not None or HOSTILE[0] in sentences(app), "the model's name"


def test_a_hostile_name_in_an_error_stays_plain_text():
    app = traces_page()
    data = b"token,layer,slot,expert\n![x](http://example.com/x.png),0,0,0\n"
    app.file_uploader(key=session.UPLOAD).upload("x.csv", data, "text/csv").run()
    assert app.text
    assert "example.com" not in "\n".join(unsafe_elements(app))


def test_file_names_keep_only_letters_and_digits(trace):
    hostile = with_texts(trace, ("../../etc/passwd", "<b>", 'a"; rm'))
    assert file_stem(hostile) == "moeviz-passwd-etc-passwd-b-a-rm"
    assert file_stem(trace) == "moeviz-sample-the-router-sends-each-token"


def test_parts_of_characters_are_told_from_brackets_in_the_text():
    assert PART_OF_CHARACTER.fullmatch("⟨é 1/2⟩")
    assert not PART_OF_CHARACTER.fullmatch("⟨é⟩")


def test_the_evaluation_set_is_chosen_in_the_list_and_labelled(trace):
    app = first_page(trace)
    app.selectbox(key=subject_bar.KEY).set_value(EMBEDDED).run()
    assert visit_of(app).subject == EMBEDDED and not app.exception
    assert recorded.held_out(EMBEDDED).tokens["label"].nunique() == 15
    go_to(app, "specialization")
    assert pictures(app) == len(TOPICS["Specialization"]) and not app.exception


def test_the_first_page_says_what_an_embedded_trace_is_routed_like():
    app = first_page(moeviz.trace(moeviz.load_model(), "12 + 7 = 19\n45 - 6 = 39\n8 * 7 = 56\n"))
    (like,) = (metric for metric in app.metric if metric.label == "Routed like")
    assert like.value == "arithmetic"
    assert "bits apart" in like.help


def test_a_stranger_s_trace_is_not_compared_with_the_evaluation_set(trace):
    for name in ("sample", "embedded"):  # the name alone proves nothing: these layers are others
        app = first_page(replace(trace, model=replace(trace.model, name=name)))
        assert "Routed like" not in [metric.label for metric in app.metric]


def test_drawing_the_first_page_loads_no_weights(monkeypatch):
    """What the page says of the model is in its config; the weights wait for Run."""
    model_service.forget_models()
    monkeypatch.setattr(moeviz, "load_model", lambda *_args, **_kwargs: pytest.fail("weights were loaded"))
    app = first_page()
    assert not app.exception
    assert [metric.value for metric in app.metric if metric.label == "Context"] == (
        ["1,024"] if model_catalog.torch_is_here() else []
    )


def test_the_first_page_of_a_trace_without_first_choices_says_so_once_and_shows_the_sets_of_experts():
    trace = sample_trace(tokens=MAX_TOKENS + 10)
    turned = trace.experts[..., ::-1].copy()
    trace = replace(trace, model=replace(trace.model, slot_order="unknown"), experts=turned, weights=None, logits=None)
    app = first_page(trace)
    assert not app.exception
    assert drawn(app, EXPLORER)["ordered"] is False


def test_the_first_page_says_what_is_not_recorded():
    trace = sample_trace()
    experts, weights = trace.experts.copy(), trace.weights.copy()
    experts[:, 4:9], weights[:, 4:9] = -2, 0
    experts[:, 20], weights[:, 20] = -1, 0
    trace = replace(trace, experts=experts, weights=weights, logits=None)
    app = first_page(trace)
    assert not app.exception
    assert {metric.label: metric.value for metric in app.metric}["Not recorded"] == "5"
    app = topic_page("Tokens", trace)
    assert app.caption[0].value == "–: the token got no expert. ?, hatched: its experts are not recorded."


def test_a_page_of_a_trace_without_any_routing_says_so():
    trace = sample_trace()
    nothing = trace.experts * 0 - 2
    nothing = replace(trace, experts=nothing.astype(trace.experts.dtype), weights=None, logits=None)
    for app in (first_page(nothing), topic_page("Load", nothing)):
        assert not app.exception
        assert any("No routing is recorded for any of these 32 tokens" in text.value for text in app.text)
