"""The page of one expert in Streamlit's own harness: what the address asks for, what is shown, what can be made."""

import json
from base64 import b64decode
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pandas as pd
import pytest
from app_pages import HOSTILE, SECONDS, address, drawn, first_page, look_at, pictures, sentences, taken_by, visit_of
from app_pages import visit as visit_page
from labels import labelled
from streamlit.testing.v1 import AppTest
from tiny_models import CONFIGS, tiny_model, tiny_tokenizer

import moeviz
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.models.parameters import describe
from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import FINE, NATURAL
from moeviz.embedded.recorded_routing import expert_table_of, reference_routing
from moeviz.errors import CaptureError
from moeviz.formats.csv_file import from_csv, to_csv
from moeviz.metrics.expert_table import breadth_sentence
from moeviz.metrics.paths import tokens_of_path
from moeviz.metrics.routes import expected_cost, expected_seconds, route_sentences
from moeviz.metrics.tokens import visible
from moeviz.recorded_answers import POSITIONS
from moeviz.routing_trace import RoutingTrace
from moeviz.testing import sample_trace
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.background import Background
from moeviz_app.jobs.fair_queue import Done, FairQueue
from moeviz_app.jobs.model_cache import ModelKey
from moeviz_app.jobs.recorded import EXAMPLES, MIXED, TELLING, example, names_of
from moeviz_app.server import identity
from moeviz_app.session import session
from moeviz_app.views.expert_jobs import JOB
from moeviz_app.widgets.components import atlas as component
from moeviz_app.widgets.components.atlas import typed
from moeviz_app.widgets.messages import escape_markdown

ALL, WITHOUT_LABELS = (
    7,
    5,
)  # pictures of an expert of the held-out texts, without its router rows; and of one's own text


def visit(trace: RoutingTrace | None = None, name: str = "expert", **query: str) -> AppTest:
    """A visitor who follows a link to an expert, or to another page, with a trace on screen where one is given."""

    def script(name):
        from importlib import import_module

        getattr(import_module(f"moeviz_app.views.{name}"), f"{name}_page")()

    app = AppTest.from_function(script, default_timeout=SECONDS, kwargs={"name": name})
    subject = query.pop("subject", None)
    visit_of(app).takes = replace(taken_by(f"{name}_page"), model=query.get("of"))
    visit_of(app).subject = subject
    if subject is not None:
        visit_of(app).insists_on.add((visit_of(app).takes, subject))
    app.query_params.update(query)
    if trace is not None:
        visit_of(app).trace = trace
    app.run()
    assert not app.exception
    return app


def press(app: AppTest, label: str) -> AppTest:
    (button,) = (button for button in app.button if button.label == label)
    button.click().run()
    assert not app.exception
    return app


def said(app: AppTest) -> str:
    return "\n".join(text.value for text in app.markdown)


def said_of(app: AppTest) -> str:
    """The same, without what keeps characters from being read as Markdown."""
    return said(app).replace("\\", "")


def asked(app: AppTest) -> dict[str, str]:
    return {name: values[0] if isinstance(values, list) else values for name, values in app.query_params.items()}


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    """A random Qwen3-MoE with 64 experts, top-8."""
    config = deepcopy(CONFIGS["qwen3_moe"])
    config.num_experts, config.num_experts_per_tok = 64, 8
    model = tiny_model(config)
    return LoadedModel(model, tiny_tokenizer(), describe(model, "tiny", None))


@pytest.fixture
def on_offer(tiny, monkeypatch):
    """The tiny model as one that the app can load; its queue."""
    worker = FairQueue(5)
    monkeypatch.setattr(model_service, "model", lambda name, how=model_catalog.DEFAULT_LOAD: tiny)
    monkeypatch.setattr(model_service, "_wanted", lambda name, how: ModelKey(name, "float32", "cpu"))
    monkeypatch.setattr(model_service, "_line", lambda device: worker)
    monkeypatch.setattr(model_service, "_in_use", lambda name, how: nullcontext(tiny))
    return worker


def test_without_a_trace_an_expert_of_the_embedded_model_is_shown_in_the_held_out_texts():
    app = visit(layer="0", expert="6")
    assert app.title[0].value == "Layer 0, expert 6"
    assert "98%" in said(app) and "Russian" in said(app)
    assert "rank 8 of 8" in said(app) and "**1,967** of 9,654 tokens" in said(app)
    assert "muted, the model loses **0.112** nats per token" in said(app)
    assert "1.11" in sentences(app)
    assert pictures(app) == ALL
    assert asked(app) == {"layer": "0", "expert": "6"}  # the address stays: going back leaves in one step


def test_the_steppers_go_round_layers_and_experts():
    app = visit(layer="0", expert="7")
    assert asked(press(app, "expert ›")) == {"layer": "0", "expert": "0"}
    assert asked(press(app, "‹ layer")) == {"layer": "5", "expert": "0"}
    assert app.title[0].value == "Layer 5, expert 0"


@pytest.mark.parametrize(
    ("query", "sentence", "title"),
    [
        ({}, "", "Layer 0, expert 0"),
        ({"layer": "99", "expert": "1"}, "asks for layer '99'; embedded has layers 0 to 5", "Layer 0, expert 0"),
        (
            {"layer": "2", "expert": "8"},
            "asks for expert '8'; layer 2 of embedded has experts 0 to 7",
            "Layer 2, expert 0",
        ),
        ({"layer": "<b>", "expert": "1"}, "asks for layer '<b>'", "Layer 0, expert 0"),
    ],
)
def test_a_bad_address_is_a_sentence_and_the_first_expert(query, sentence, title):
    app = visit(**query)
    assert app.title[0].value == title
    assert sentence in sentences(app)
    assert ("The link asks" in sentences(app)) == bool(sentence)


def test_a_link_to_a_model_that_is_not_here_shows_no_other_models_expert():
    app = visit(layer="0", expert="1", of="somebody/else")
    assert "an expert of 'somebody/else', and there is no trace of that model here" in sentences(app)
    assert not app.title and not pictures(app)


def test_the_embedded_model_s_sibling_is_seen_in_the_same_texts_and_an_address_says_of_which_it_is():
    where = {"layer": "0", "expert": "7", "subject": NATURAL}
    app = visit(**where)
    assert escape_markdown(NATURAL) in said(app) and pictures(app) == ALL
    assert "has not been computed" in sentences(app) and "muted, the model loses" not in said(app)
    assert asked(press(app, "expert ›")) == where | {"expert": "0"}
    of_embedded, of_natural = visit(layer="0", expert="7"), visit(**where)
    numbers = [
        [line for line in said(each).splitlines() if "uniform load" in line] for each in (of_embedded, of_natural)
    ]
    assert len(numbers[0]) == len(numbers[1]) == 1 and numbers[0] != numbers[1]


def test_ones_own_text_is_chosen_beside_the_held_out_ones():
    trace = moeviz.trace(moeviz.load_model(), "Il fait froid à Paris. Il fait froid.")
    app = visit(trace, layer="1", expert="2")
    assert pictures(app) == ALL
    look_at(app, "trace")
    assert not app.exception
    assert "no labels, so there are no kinds of text" in sentences(app)
    assert pictures(app) == WITHOUT_LABELS
    press(app, "Look at the 60 texts of 15 kinds")
    assert pictures(app) == ALL


def test_what_is_lost_in_ones_own_text_is_computed_in_the_background_and_kept(tiny, on_offer):
    trace = moeviz.trace(tiny, "Il fait froid à Paris. Il fait froid.")
    expert = int(trace.experts[0, 3, 0])
    app = visit(trace, layer="0", expert=str(expert))
    assert app.title[0].value == f"Layer 0, expert {expert}"
    assert "of 64" in said(app)
    label = f"Read the texts without expert {expert}"
    press(app, label)
    while JOB in visit_of(app).results:
        app.run()
        assert not app.exception
    assert "muted, the model loses **" in said(app)
    found = next(found for name, found in visit_of(app).results.items() if name.startswith("muted"))
    alone = moeviz.ablate(tiny, "Il fait froid à Paris. Il fait froid.", experts=[(0, expert)])
    assert found["loss_change"].item() == pytest.approx(alone["loss_change"].item(), abs=1e-9)
    assert label not in [button.label for button in app.button]


@pytest.fixture
def kept_in(tmp_path, monkeypatch):
    """The own folder, for weights that are known; who visits is the machine's own user, or is not."""
    monkeypatch.setenv("MOEVIZ_HOME", str(tmp_path / "mine"))

    def visitor(local: bool, weights: str | None = "3f2a") -> Path:
        monkeypatch.setattr(identity, "is_local", lambda: local)
        monkeypatch.setattr(model_service, "weights", lambda name, how, revision: weights)
        return tmp_path / "mine"

    return visitor


def muted(tiny: LoadedModel, text: str = "Il fait froid à Paris.") -> AppTest:
    """A visit in which the loss without an expert has been computed, if it was not known."""
    trace = moeviz.trace(tiny, text)
    app = visit(trace, layer="0", expert="3")
    if "Read the texts without expert 3" in [button.label for button in app.button]:
        press(app, "Read the texts without expert 3")
        while JOB in visit_of(app).results:
            app.run()
            assert not app.exception
    return app


def test_the_machine_s_own_user_has_it_at_the_next_visit_too(tiny, on_offer, kept_in, monkeypatch):
    folder = kept_in(local=True)
    before = said(muted(tiny))
    (file,) = folder.rglob("*.*")
    assert file.parent.name == "muted" and len(file.stem) == 64 and "muted, the model loses **" in before
    monkeypatch.setattr(model_service, "model", None)  # no model is asked for the second time
    again = visit(moeviz.trace(tiny, "Il fait froid à Paris."), layer="0", expert="3")
    assert said(again) == before


@pytest.mark.parametrize(
    ("text", "expert", "weights"),
    [("Il fait chaud à Paris.", "3", "3f2a"), ("Il fait froid à Paris.", "4", "3f2a")]
    + [("Il fait froid à Paris.", "3", other) for other in ("another commit", None)],
    ids=["other text", "other expert", "other weights", "weights that nobody knows"],
)
def test_what_is_kept_holds_for_nothing_else(tiny, on_offer, kept_in, text, expert, weights):
    kept_in(local=True)
    muted(tiny)
    kept_in(local=True, weights=weights)
    app = visit(moeviz.trace(tiny, text), layer="0", expert=expert)
    assert "muted, the model loses **" not in said(app)


def test_nothing_of_a_visitor_from_elsewhere_is_kept_or_shown_to_one(tiny, on_offer, kept_in):
    folder = kept_in(local=False)
    assert "muted, the model loses **" in said(muted(tiny)) and not folder.exists()
    kept_in(local=True)
    muted(tiny)
    assert folder.exists()
    kept_in(local=False)
    app = visit(moeviz.trace(tiny, "Il fait froid à Paris."), layer="0", expert="3")
    assert "muted, the model loses **" not in said(app)


@pytest.mark.parametrize(("allowed", "may"), [(None, True), (True, True), (False, False)])
def test_a_server_for_others_keeps_nothing_on_disk(monkeypatch, kept_in, allowed, may):
    kept_in(local=True)
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, allow_any_model=allowed))
    assert identity.may_keep_on_disk() == may


def test_the_background_waits_its_turn_and_can_be_stopped(tiny, on_offer):
    trace, gate = moeviz.trace(tiny, "Il fait froid à Paris."), Event()
    expert = int(trace.experts[0, 3, 0])
    before = on_offer.ask(lambda _tell: gate.wait())
    app = press(visit(trace, layer="0", expert=str(expert)), f"Read the texts without expert {expert}")
    _, job = visit_of(app).results[JOB]
    while not job.ahead:
        pass
    press(app, "Stop")
    assert JOB not in visit_of(app).results
    assert f"Read the texts without expert {expert}" in [button.label for button in app.button]
    gate.set()
    assert next(told.value for told in before if isinstance(told, Done))
    assert job.found is None


def test_routes_are_judged_text_by_text_and_stop_keeps_what_is_done(tiny, on_offer, monkeypatch):
    from moeviz.analyses import routes

    trace = moeviz.trace(tiny, ["Il fait froid à Paris.", "def total(prices):", "12 + 30 = 42"])
    judge, gate, calls = routes.route_regret, Event(), []

    def slow(*given, **named):
        calls.append(gate.wait(SECONDS) if calls else None)
        return judge(*given, **named)

    monkeypatch.setattr(routes, "route_regret", slow)
    app = visit(trace, name="routes")
    cost = expected_cost(trace.model)
    assert cost.routes == 1 + 8 * 8 and cost.sentence(3) in said(app)
    press(app, "Judge the routes")
    _, job = visit_of(app).results[JOB]
    while not job.done:
        pass
    press(app, "Stop")
    gate.set()
    of, found = visit_of(app).results[f"routes of {id(trace)}"]
    assert of is trace
    assert found.cells["sequence"].unique().tolist() == [0] and not app.exception
    assert str(route_sentences(found)[0]) in sentences(app)


TWO = ["Il fait froid à Paris.", "12 + 30 = 42"]


def labels_of(app: AppTest) -> list[str]:
    return [button.label for button in app.button]


@pytest.mark.parametrize(
    "name", ["model-Q4_K_M.gguf", "mlx:a-folder", "vllm+http://localhost:8000", "sglang+http://localhost:8000"]
)
def test_routes_of_a_model_in_which_nothing_can_be_changed_are_refused_before_anything_runs(tiny, name):
    trace = moeviz.trace(tiny, TWO)
    app = visit(replace(trace, model=replace(trace.model, name=name)), name="routes")
    assert model_catalog.why_only_read(name) in sentences(app) and "Judge the routes" not in labels_of(app)


def test_what_has_no_routes_to_judge_is_a_sentence(tiny, on_offer, monkeypatch):
    from moeviz.analyses import routes

    trace = moeviz.trace(tiny, TWO)
    one = visit(trace.select(tokens=(trace.tokens["position"] == 0).to_numpy()), name="routes")
    assert "no text here has two tokens" in sentences(one) and "Judge the routes" not in labels_of(one)
    assert "Judge the routes" in labels_of(visit(trace, name="routes"))
    most = int(expected_cost(trace.model).forwards * 2 * POSITIONS) - 1
    with monkeypatch.context() as strangers:
        strangers.setattr(settings, "SETTINGS", replace(settings.SETTINGS, max_corpus_chars=most))
        dear = visit(trace, name="routes")
        assert f"{most:,} are read here" in sentences(dear) and "Judge the routes" not in labels_of(dear)
    monkeypatch.setattr(routes, "reads_others", lambda run: True)  # as with a capacity, or where experts choose
    app = judged(trace)
    assert "by what else is in its batch" in sentences(app) and f"routes of {id(trace)}" not in visit_of(app).results


def judged(trace: RoutingTrace) -> AppTest:
    """The page Routes once the routes of a trace are judged, or refused."""
    app = press(visit(trace, name="routes"), "Judge the routes")
    while (job := visit_of(app).results.get(JOB)) is not None:
        while job[1]._told.error is None and job[1].found is None:
            pass
        app.run()
    return app


def test_layers_without_other_routes_are_left_out_and_named(tiny, on_offer, monkeypatch):
    from moeviz.analyses import routes

    own = routes.probe_routers

    def looked_up(run):
        return tuple(replace(p, trouble="it looks experts up") if p.router.layer == 2 else p for p in own(run))

    monkeypatch.setattr(routes, "probe_routers", looked_up)
    trace = moeviz.trace(tiny, TWO)
    app = judged(trace)
    _, found = visit_of(app).results[f"routes of {id(trace)}"]
    assert [*found.left_out] == [2] and 2 not in found.cells["layer"].tolist()
    assert "Layer 2 is left out" in said(app) and "it looks experts up" in said(app)


def test_what_routes_take_is_said_in_seconds_before_they_are_judged(tiny, on_offer):
    trace = moeviz.trace(tiny, TWO)
    cost, tokens = expected_cost(trace.model), 2 * POSITIONS
    unknown = visit(replace(trace, model=replace(trace.model, parameters=None)), name="routes")
    assert f"{cost.sentence(2)}; {tokens} tokens" in said_of(unknown)
    assert f"{cost.sentence(2)}: about" in said_of(visit(trace, name="routes"))
    one, ten = (expected_seconds(trace.model, float(many)) for many in (tokens, 10 * tokens))
    assert 0 < one * 9.9 < ten < one * 10.1


def test_a_path_has_an_address_and_whoever_follows_it_sees_its_tokens():
    app = visit_page("routes")
    app.text_input(key=session.A_PATH).set_value("0:6.3").run()
    link = address(app)
    assert link == {"through": "0:6.3"}
    trace = reference_routing(EMBEDDED)
    wanted = [visible(text) for text in tokens_of_path(trace, 0, [6, 3])["text"]]
    assert len(wanted) > 1 and "Layer 1, expert 3" in labels_of(app)
    other = visit_page("routes", **link)
    assert other.text_input(key=session.A_PATH).value == "0:6.3"
    assert any(wanted == [*table.value.get("text", [])] for table in other.dataframe)


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("0:9", "experts 0 to 7"),
        ("5:1.1", "is not in this trace"),
        ("<b>", "it must be a layer"),
        ("0:" + "1" * 90, "experts 0 to 7"),
    ],
)
def test_a_path_that_is_none_is_a_sentence(path, sentence):
    app = visit(name="routes")
    app.text_input(key=session.A_PATH).set_value(path).run()
    assert sentence in sentences(app) and not app.exception


def test_explore_shows_all_routes_of_the_chosen_token_and_layer():
    layer, token = TELLING
    found = moeviz.route_regret(moeviz.load_model(), EXAMPLES[MIXED], layers=[layer])
    app = first_page()
    visit_of(app).results[f"routes of {id(example())}"] = (example(), found)
    app.run()
    claim = found.sentence(0, token, layer)
    assert (claim["text"], claim["others"], claim["better"]) == ("wort", 27, 6) and str(claim) in sentences(app)
    assert found.sentence(0, 0, layer) is None, "a special token"


def test_router_rows_are_compared_once_the_model_is_there(tiny, on_offer):
    trace = moeviz.trace(tiny, "Il fait froid à Paris.")
    app = press(visit(trace, layer="0", expert="5"), "Compare the router's rows")
    rows = tiny.model.model.layers[0].mlp.gate.weight.detach()
    assert f"The norm of its row is {rows[5].norm():.2f}" in sentences(app)


def test_comparing_router_rows_counts_as_a_run(tiny, on_offer, monkeypatch):
    pace = identity.RateLimiter(1)
    pace.begin("me")
    monkeypatch.setattr(identity, "visitor", lambda: identity.Visitor("me", "here", is_browser=True))
    monkeypatch.setattr(model_service, "_pace", pace)
    monkeypatch.setattr(model_service, "run_on_model", pytest.fail)
    trace = moeviz.trace(tiny, "Il fait froid à Paris.")
    app = press(visit(trace, layer="0", expert="5"), "Compare the router's rows")
    assert "as many as are allowed here" in sentences(app)


def test_a_trace_opened_from_csv_has_what_its_ids_tell(tiny):
    ids = replace(moeviz.trace(tiny, "Il fait froid à Paris. Il fait froid."), weights=None, logits=None)
    trace = from_csv(to_csv(ids))
    app = visit(trace, layer="2", expert="3")
    assert "only expert ids" in sentences(app)
    assert "Read the texts again, with weights" in [button.label for button in app.button]
    assert "mean weight" not in said(app)


def test_weights_that_a_trace_lacks_are_recorded_anew(tiny, on_offer):
    whole = moeviz.trace(tiny, "Il fait froid à Paris.")
    app = visit(replace(whole, weights=None, logits=None), layer="0", expert="3")
    press(app, "Read the texts again, with weights")
    while JOB in visit_of(app).results:
        app.run()
        assert not app.exception
    app.run()
    trace = visit_of(app).trace
    assert trace.weights is not None and "label" not in trace.tokens
    assert (trace.experts == whole.experts).all()


def test_texts_that_the_model_would_read_otherwise_are_refused_with_a_sentence(tiny, on_offer):
    trace = moeviz.trace(tiny, "Il fait froid à Paris.")
    other = replace(trace, tokens=trace.tokens.assign(token_id=np.int32(-1)))
    app = press(visit(other, layer="0", expert="3"), "Read the texts without expert 3")
    assert "does not say which tokens its texts are made of" in sentences(app)


@pytest.mark.parametrize(
    "trace",
    [
        sample_trace(layers=1, tokens=1, top_k=1),
        sample_trace(layers=2, tokens=40, top_k=8, experts=512),
        replace(sample_trace(), weights=None, logits=None, model=replace(sample_trace().model, slot_order="unknown")),
    ],
    ids=["one token", "512 experts", "unknown order"],
)
def test_every_shape_of_trace_is_shown_or_said(trace):
    layer = str(trace.model.layers[-1])
    app = visit(trace, layer=layer, expert="3")
    assert app.title[0].value == f"Layer {layer}, expert 3"


def test_what_strangers_wrote_stays_text():
    trace = labelled(sample_trace(tokens=60), HOSTILE[1:3])
    texts = [HOSTILE[row % len(HOSTILE)] for row in range(60)]
    tokens = trace.tokens.assign(text=pd.Series(texts, dtype="str"), token_id=np.arange(60, dtype=np.int32) % 5)
    experts = np.zeros_like(trace.experts)
    experts[..., 1] = 1
    experts[:, np.arange(60) % 5 != 2] = [2, 3]  # one hostile token keeps to expert 0
    hostile = replace(
        trace, tokens=tokens, experts=experts, weights=None, logits=None, model=replace(trace.model, name=HOSTILE[2])
    )
    app = visit(hostile, layer="0", expert="0")
    assert "12 of 12" in said_of(app)
    for element in [*app.markdown, *app.caption]:
        assert not any(text in element.value for text in HOSTILE)
    assert escape_markdown(HOSTILE[3]) == "\\:material\\/home\\:"


def test_the_background_gives_way_and_says_what_went_wrong():
    worker = FairQueue(5)
    job = Background(lambda piece: worker.ask(piece), [lambda tell: 1, lambda tell: 2])
    while job.found is None:
        pass
    assert job.found == [1, 2] and job.done == job.total == 2

    def fails(tell):
        raise CaptureError("no such thing")

    broken = Background(lambda piece: worker.ask(piece), [fails])
    with pytest.raises(CaptureError, match="no such thing"):
        while broken.found is None:
            pass


def test_the_reference_is_what_the_model_does():
    """Three texts of the sixty read again, and one expert muted for one kind."""
    from moeviz.analyses.muting import muted_by_label
    from moeviz.capture.corpus import trace_corpus
    from moeviz.embedded.recorded_routing import muted_experts, texts_over_training

    model, texts = moeviz.load_model(), texts_over_training()
    again, whole = trace_corpus(model, texts[:3]), reference_routing()
    first = whole.select(tokens=slice(0, len(again.tokens)))
    assert (first.experts == again.experts).all()
    assert np.allclose(first.weights, again.weights, atol=1e-5)
    pairs = [pair for pair in texts if pair[0] == "Russian"]
    found = muted_by_label(model, pairs, experts=[(0, 6), (5, 7)])
    shipped = muted_experts().merge(found, on=["layer", "expert", "label"], suffixes=("", "_again"))
    assert len(shipped) == 2 and (shipped["tokens"] == shipped["tokens_again"]).all()
    assert np.allclose(shipped["loss_change"], shipped["loss_change_again"], atol=1e-4)
    assert len(muted_experts()) == 48 * 15


def experts(trace: RoutingTrace | None = None, **query: str) -> AppTest:
    """The page of all experts, with a trace on screen where one is given."""
    return visit(trace, "experts", **query)


def search(app: AppTest, word: str) -> dict:
    """The answer of the box to a word."""
    app.session_state[session.WORD] = word
    app.run()
    assert not app.exception
    return drawn(app, "atlas search")


def of_array(data: dict, name: str, kind: type) -> np.ndarray:
    return np.frombuffer(b64decode(data[name]), kind)


@pytest.mark.parametrize(("name", "named"), [(EMBEDDED, 46), (NATURAL, 15), (FINE, 134)])
def test_our_own_models_have_an_atlas_of_the_held_out_texts_with_their_names(name, named):
    app = experts()
    look_at(app, name)
    data, trace = drawn(app, "atlas"), reference_routing(name)
    L, E = len(trace.model.layers), max(trace.model.num_experts)
    assert app.title[0].value == f"What the {L * E} experts do"
    assert np.array_equal(of_array(data, "first", np.uint8).reshape(L, -1), trace.experts[..., 0])
    assert (of_array(data, "name", np.uint16) > 0).sum() == named == names_of(trace.model)["holds"].sum()
    assert [column["label"] for column in data["columns"]] == list(dict.fromkeys(trace.tokens["label"]))
    said = drawn(app, "atlas search")["said"]
    assert said[0] == breadth_sentence(expert_table_of(name)) and f"{L * E - named} ha" in said[0]
    assert "With the routing of other texts" in said[1]
    assert data["query"] == {"subject": name}


def test_a_search_is_answered_beside_the_atlas_which_stays_as_it_is():
    app = experts()
    before = drawn(app, "atlas")
    answer = search(app, "SELECT")
    assert answer["said"][0] == "Layer 3, expert 7 takes 9 of the 9 tokens of “SELECT”, with over 99% of the weight;"
    assert len(answer["found"]["takers"]) == 6 and answer["found"]["id"] == before["id"]
    bits = np.unpackbits(of_array(answer["found"], "bits", np.uint8), bitorder="little")
    assert bits.sum() == answer["found"]["count"] == 9
    assert drawn(app, "atlas") == before
    assert "too few to distinguish experts" in "".join(search(app, "JavaScript")["said"])
    assert search(app, "x" * 100_000)["found"] is None
    assert search(app, "<script>alert(1)</script>")["said"][1].endswith("is not in these texts.")


@pytest.mark.parametrize("told", [None, {}, {"word": 7}, {"word": "x" * 10**6}, {"word": "\ud800\u202e"}], ids=str)
def test_whatever_a_browser_types_is_a_short_text(told):
    word = typed(told)
    assert isinstance(word, str) and len(word) <= 200 and word.encode().decode() == word


@pytest.mark.parametrize(
    "told",
    [{"expert": [99, 0]}, {"expert": [0, 8]}, {"expert": ["0", "1"]}, "layer 0", {"expert": [0, 1], "id": 1}],
    ids=str,
)
def test_a_forged_message_opens_no_expert(told, monkeypatch):
    data = {"id": 7, "layers": [0, 1], "counts": [8, 8]}
    forged = {"id": 7} | told if isinstance(told, dict) else told
    monkeypatch.setattr(component, "_atlas", lambda **_: {"open": forged})
    assert component.atlas(data, {}, "atlas", lambda: None) is None
    monkeypatch.setattr(component, "_atlas", lambda **_: {"open": {"expert": [1, 7], "id": 7}})
    assert component.atlas(data, {}, "atlas", lambda: None) == (1, 7)


@pytest.mark.parametrize("what", ["one text", "no texts", "unordered", "one layer", "one expert", "no tokens", "large"])
def test_every_trace_has_an_atlas_or_one_sentence(what, monkeypatch):
    trace = sample_trace(layers=2, tokens=24, top_k=2, experts=4)
    if what == "no texts":
        trace = replace(trace, tokens=trace.tokens.assign(text=""))
    elif what == "unordered":
        trace = replace(trace, weights=None, logits=None, model=replace(trace.model, slot_order="unknown"))
    elif what == "one layer":
        trace = trace.select(layers=trace.model.layers[:1])
    elif what == "one expert":
        trace = sample_trace(layers=1, tokens=3, top_k=1, experts=1)
    elif what == "no tokens":
        trace = trace.select(tokens=slice(0, 0))
    elif what == "large":
        trace = sample_trace(layers=48, tokens=2_500, top_k=2, experts=128)
    app = experts(trace)
    monkeypatch.setattr("moeviz.metrics.expert_names.MOST_TOKENS", 2_000)  # not before: of held-out texts all is kept
    look_at(app, "trace")
    assert not app.exception
    if what in ("no texts", "no tokens"):
        assert sentences(app).count("trace") == 1 and not app.get("bidi_component")[1:]
        return
    data = drawn(app, "atlas")
    assert (data["first"] is None) == (what == "unordered")
    assert data["tokens"] == min(len(trace.tokens), 2_000)
    said = "".join(drawn(app, "atlas search")["said"])
    assert "this is one text" in said and not of_array(data, "name", np.uint16).any()
    assert len(json.dumps(data)) < 450_000, "and 2.5 MB of ten times as many tokens"
    assert ("a sample of 2,500" in said_of(app)) == (what == "large")


def test_hostile_texts_and_labels_are_short_plain_text():
    labels = [*HOSTILE, "\u202eabc", "x" * 10_000, "a, b"]
    texts = [*HOSTILE, "\u202e", "y" * 10_000, "⟨é 1/2⟩", "⟨é 2/2⟩"]
    made = sample_trace(layers=2, tokens=800, top_k=2, experts=4)
    sequence = np.arange(800) // 50
    frame = made.tokens.assign(
        sequence=sequence.astype(np.int32),
        text=pd.Series([texts[row % len(texts)] for row in range(800)], dtype="str"),
        label=pd.Series([labels[text % len(labels)] for text in sequence], dtype="str"),
    )
    experts_of = np.stack([np.stack([sequence % 4, np.full(800, -1)], axis=1)] * 2).astype(np.int16)
    app = experts(replace(made, tokens=frame, experts=experts_of, weights=None, logits=None))
    data = drawn(app, "atlas")
    words = [*data["words"], *data["plain"], *data["kinds"], *(name for pair in data["names"] for name in pair[:2])]
    words += [column["label"] for column in data["columns"]]
    assert max(map(len, words)) <= 130 and not any("\u202e" in word for word in words)
    for element in [*app.markdown, *app.title]:
        assert not any(text in element.value for text in HOSTILE)
    assert search(app, HOSTILE[0])["found"]["count"] > 0
    assert any("a; b" in pair[0] for pair in data["names"]), "a label's own comma does not divide a name"


def test_an_expert_is_seen_in_held_out_texts_first_and_is_called_by_its_name_in_ones_own():
    trace = moeviz.trace(moeviz.load_model(), "Il fait froid à Paris. Il fait froid.")
    app = visit(trace, layer="2", expert="4")
    assert "#### German, Russian" in said_of(app) and "99%" in said_of(app)
    assert "81%" in sentences(app) and "0.81" in sentences(app)
    look_at(app, "trace")
    assert "#### German, Russian" in said_of(app)
    assert "German, Russian, HTML, French: it has 56% of these tokens, and they are 82% of all" in sentences(app)
    press(app, "expert ›")
    assert len(visit_of(app).trace.tokens) == len(trace.tokens) and "82% of all" not in sentences(app)
