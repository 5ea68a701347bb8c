"""The page Training: runs that ship, that strangers wrote, that grow; and what is no run."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from app_pages import SAFE_ELEMENTS, SECONDS, address, go_to, pictures, sentences, visit
from made_runs import HOSTILE, layer, made_run, run_file
from streamlit.testing.v1 import AppTest

from moeviz.embedded.recorded_routing import OVER_TRAINING as EMBEDDED
from moeviz.errors import InvalidTrace
from moeviz.formats.sandboxed_read import Limits
from moeviz.training.reading import EXAMPLE_FOLDER, as_of, example_runs, is_run, run_at, snapshots_run
from moeviz.training.recorded.claims import router_verdict
from moeviz.training.recorded.run import RunFacts, TrainingRun
from moeviz.training.sandboxed_read import read_run_sandboxed
from moeviz.training.trainer_logs import FIGURE, _layers_of_events, _logs
from moeviz_app import settings
from moeviz_app.session import session, training_runs


def training_page(**kept: object) -> AppTest:
    def script() -> None:
        from moeviz_app.views.training import training_page

        training_page()

    app = AppTest.from_function(script, default_timeout=SECONDS)
    for key, value in kept.items():
        app.session_state[key] = value
    return app.run()


def in_all_parts(app: AppTest) -> dict[str, int]:
    """How many pictures each part of the page has, opened one after the other."""
    found = {}
    for part in training_runs.PARTS:
        app.session_state[session.RUN_PART] = part
        assert not app.run().exception
        found[part] = pictures(app)
    return found


def uploaded(name: str, data: bytes) -> AppTest:
    app = training_page()
    app.file_uploader(key=session.RUN_FILE).upload(name, data, "application/json").run()
    return app


@pytest.fixture
def started(monkeypatch):
    """The app as `moeviz app RUN …` serves it to this machine alone."""

    def start(*paths: Path, serve: str = settings.PRIVATE) -> AppTest:
        files = tuple(map(str, paths))
        monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, files=files, serve=serve))
        return training_page()

    return start


def test_the_pair_that_ships_is_there_on_the_first_day_with_its_alarms():
    app = training_page()
    assert not app.exception
    said = sentences(app)
    verdicts = {name: router_verdict(run) for name, run in example_runs().items()}
    assert all(verdict.answer in said and verdict.beside in said for verdict in verdicts.values())
    assert "87%" in said, "as it began"
    assert "Go back to a checkpoint from before the alarm" in said
    assert "Over at step" in said
    assert pictures(app) == 4 and len(app.selectbox) == 2


def test_only_the_part_that_is_open_is_drawn():
    """All at once, the first picture would come with the last."""
    app = training_page()
    assert in_all_parts(app) == {
        training_runs.EXPERTS: 5,
        training_runs.BALANCE: 6,
        training_runs.LOSSES: 8,
        training_runs.PROBE: 7,
    }
    app.session_state[session.RUN_PART] = training_runs.EXPERTS
    assert app.run().select_slider(key=session.RUN_LAYER).value == 1, "the worst layer"


def test_a_link_opens_the_part_that_was_on_screen():
    app = visit("train", run="aux-on", part="losses")
    assert app.session_state[session.RUN_PART] == training_runs.LOSSES and pictures(app) == 6
    assert address(app)["part"] == "losses" and address(app)["run"] == "aux-on"
    app = visit("train", run="aux-on", part="none such")
    assert app.session_state[session.RUN_PART] is None and pictures(app) == 2


def test_the_page_looks_back_to_a_step_and_a_link_keeps_it():
    app = training_page()
    (slider,) = (slider for slider in app.select_slider if slider.label == "As of step")
    assert slider.value == 90 and session.RUN_AT not in app.session_state
    slider.set_value(20).run()
    assert not app.exception and app.session_state[session.RUN_AT] == 20
    then = {name: router_verdict(as_of(run, 20)) for name, run in example_runs().items()}
    assert all(verdict.answer in sentences(app) for verdict in then.values())
    assert router_verdict(example_runs()["aux-off"]).answer not in sentences(app)
    app = visit("train", run="aux-off", at="20")
    assert then["aux-off"].answer in sentences(app) and address(app)["at"] == "20"
    for asked, shown in ({"run": "aux-off", "at": "40"}, 40), ({"run": "aux-on"}, 90):  # links that follow one another
        app.query_params.clear()
        for name, value in asked.items():
            app.query_params[name] = value
        app.run()
        assert next(one.value for one in app.select_slider if one.label == "As of step") == shown, asked


def test_an_alarm_leads_to_its_layer():
    app = training_page(run_part=training_runs.BALANCE)
    (button,) = (button for button in app.button if button.label == "See layer 0")
    button.click().run()
    assert app.select_slider(key=session.RUN_LAYER).value == 0 and not app.exception
    assert app.session_state[session.RUN_PART] == training_runs.EXPERTS


def test_a_run_alone_and_tokens_on_the_axis():
    app = training_page()
    app.selectbox(key=session.OTHER_RUN).set_value("no other run").run()
    assert not app.exception and sum(in_all_parts(app).values()) == 18
    assert "aux loss on" not in sentences(app)
    app.session_state[session.RUN_AXIS] = "Tokens"
    assert sum(in_all_parts(app).values()) == 18


def test_a_run_without_what_the_other_has_is_named_and_the_other_keeps_its_colour(started, tmp_path):
    """Of the second run alone, a curve without a name in the first run's colour would be taken for the first's."""
    one, other = run_file(tmp_path / "one", 2), run_file(tmp_path / "other", 2)
    with (other / "routing.jsonl").open("a") as file:
        for step, changed in ((1, [None]), (2, [0.5])):
            file.write(json.dumps({"snapshot": step, "tokens": step, "changed": changed}) + "\n")
    app = started(one, other)
    app.session_state[session.RUN_PART] = training_runs.PROBE
    assert not app.run().exception and pictures(app) == 5
    assert "“one” has fewer than two snapshots of a probe set: only “other” is drawn." in sentences(app)
    assert "At the end, in “other” 50% of the choices changed" in sentences(app)
    *_, chart = app.get("vega_lite_chart")
    assert json.loads(chart.proto.spec)["layer"][0]["encoding"]["color"]["scale"]["domain"] == ["one", "other"]
    app.session_state[session.RUN_PART] = training_runs.BALANCE
    assert "is drawn" not in sentences(app.run()), "both have a balance"


def test_snapshots_alone_go_back_in_training():
    app = training_page(training_run=training_runs.SNAPSHOTS)
    assert pictures(app) == 2 and not app.exception
    moments = app.select_slider(key=session.MOMENT).options
    assert len(moments) >= 6 and app.select_slider(key=session.MOMENT).value == int(moments[-1].replace(",", ""))
    app.select_slider(key=session.MOMENT).set_value(int(moments[0].replace(",", ""))).run()
    app.select_slider(key=session.TRAINING_LAYER).set_value(5).run()
    assert pictures(app) == 2 and not app.exception


def test_an_upload_is_read_elsewhere_and_opens_alone():
    app = uploaded("routing.jsonl", (EXAMPLE_FOLDER / "aux-off" / "routing.jsonl").read_bytes())
    assert not app.exception
    assert app.selectbox(key=session.RUN).value == "routing.jsonl"
    assert app.selectbox(key=session.OTHER_RUN).value == "no other run"
    assert "92%" in sentences(app)


def test_a_run_that_is_opened_on_the_page_of_traces_leads_to_the_page_of_training():
    data = (EXAMPLE_FOLDER / "aux-off" / "routing.jsonl").read_bytes()
    app = visit("files")
    app.file_uploader(key=session.UPLOAD).upload("mine.jsonl", data, "application/json").run()
    assert not app.exception and app.success[0].value == "Opened. It holds a training run, and no trace."
    assert "Look at the training run" in [link.proto.label for link in app.get("page_link")]
    app = go_to(app, "train")
    assert app.selectbox(key=session.RUN).value == "mine.jsonl"
    assert app.selectbox(key=session.OTHER_RUN).value == "no other run"


@pytest.mark.parametrize("data", [b"", b"{}\n", b'{"step": 1}\n', b"\x00" * 99, b"[" * 100_000])
def test_an_upload_that_is_no_run_is_refused_and_what_was_there_stays(data):
    app = uploaded("x.jsonl", data)
    assert not app.exception and app.selectbox(key=session.RUN).value == training_runs.AUX_OFF
    assert "a routing.jsonl that moeviz wrote" in sentences(app)


def test_a_run_that_takes_too_much_is_given_up():
    data = (EXAMPLE_FOLDER / "aux-off" / "routing.jsonl").read_bytes()
    with pytest.raises(InvalidTrace):
        read_run_sandboxed(data, "routing.jsonl", Limits(len(data) - 1, 20))
    assert len(read_run_sandboxed(data, "routing.jsonl", Limits(2**24, 60)).logs) == 18


def test_names_and_sentences_of_strangers_are_plain_text(started, tmp_path):
    folder = run_file(tmp_path / "run", 3)
    event = {"kind": "load", "layer": 0, "on": True, "says": f"layer 0: {HOSTILE}"}
    line = {"step": 9, "tokens": 9, "layers": [layer(0, [5, 5])], "alarms": [event]}
    with (folder / "routing.jsonl").open("a") as file:
        file.write(json.dumps({"said": HOSTILE}) + "\n" + json.dumps(line) + "\n")
    app = started(folder)
    assert not app.exception
    assert {element.type for element in app.main if HOSTILE in str(getattr(element, "value", ""))} <= SAFE_ELEMENTS
    assert HOSTILE in sentences(app)


def test_a_run_that_grows_is_read_again_and_half_a_line_is_no_error(started, tmp_path):
    folder = run_file(tmp_path / "run", 2, b'{"step": 3, "tok')
    app = started(folder)
    assert not app.exception and "2 logs up to step 2" in sentences(app)
    assert training_runs.may_grow("run")
    before = training_runs.seen("run")
    run_file(folder, 3)
    assert training_runs.seen("run") != before
    assert "3 logs up to step 3" in sentences(app.run())


def test_a_run_is_looked_at_again_in_private_alone(started, tmp_path):
    folder = run_file(tmp_path / "run", 1)
    app = started(folder, serve=settings.PUBLIC)
    assert not app.exception and not training_runs.may_grow("run")
    started(folder)
    assert training_runs.may_grow("run")


@pytest.mark.parametrize("logs", [0, 1])
def test_a_run_of_no_log_or_of_one_is_no_error(started, tmp_path, logs):
    app = started(run_file(tmp_path / "run", logs))
    assert not app.exception
    assert ("Nothing has been logged yet" in sentences(app)) == (logs == 0)


def test_a_run_without_layers_is_no_error(started, tmp_path):
    head = {"format": "moeviz training v1", "layers": [], "num_experts": []}
    lines = [head, *({"step": n, "tokens": n, "loss": 1.0, "layers": []} for n in (1, 2))]
    (tmp_path / "routing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    app = started(tmp_path / "routing.jsonl")
    app.session_state[session.RUN_PART] = training_runs.LOSSES
    assert not app.run().exception and pictures(app) == 1, "the loss is all there is"


def test_event_files_without_numbers_of_experts_are_drawn_part_by_part(started, tmp_path, monkeypatch):
    """As `events_run` reads them: layers, no experts, counts of nothing."""
    found = {re.fullmatch(FIGURE, f"moe/max_violation/layer_{layer}"): [(1, 0.5), (2, 1.5)] for layer in (0, 1)}
    layers = _layers_of_events([(name, step, value) for name, values in found.items() for step, value in values])
    run = TrainingRun("events", RunFacts("tensorboard", layers=(0, 1)), _logs({"loss": [(1, 2.0), (2, 1.0)]}), layers)
    monkeypatch.setattr(training_runs, "run_at", lambda *_: run)
    (tmp_path / "events.out.tfevents.1").write_bytes(b"")
    app = started(tmp_path)
    assert not app.exception and "2 MoE layers" in sentences(app)
    assert any(in_all_parts(app).values())


def test_a_run_that_is_gone_is_said(started, tmp_path):
    folder = run_file(tmp_path / "run", 2)
    app = started(folder)
    (folder / "routing.jsonl").write_bytes(b"{}\n")
    assert "a routing.jsonl that moeviz wrote" in sentences(app.run()) and not app.exception


def test_runs_are_known_from_traces_and_snapshots_from_both(tmp_path):
    assert (
        is_run(EXAMPLE_FOLDER / "aux-on") and is_run(EXAMPLE_FOLDER / "aux-on" / "routing.jsonl") and is_run(EMBEDDED)
    )
    (tmp_path / "other.jsonl").write_text('{"label": "a", "text": "moeviz"}\n')
    assert not is_run(tmp_path / "other.jsonl") and not is_run(tmp_path) and not is_run(tmp_path / "none")
    assert len(run_at(EMBEDDED).logs) == 0 and len(run_at(EMBEDDED).snapshots) >= 6
    with pytest.raises(InvalidTrace, match="snapshots"):
        snapshots_run(tmp_path)


def test_what_is_kept_of_a_run_is_not_shown_for_another():
    """The second run of a pair may be another one of the same name, as when it has grown."""
    from moeviz.charts.training import BALANCE
    from moeviz_app.views.training_charts import measured

    one, two, grown = (made_run([[layer(0, [5, n])]]) for n in (5, 0, 15))
    first = measured(BALANCE, {"a": one, "b": two}, "step")
    assert measured(BALANCE, {"a": one, "b": two}, "step") is first
    assert measured(BALANCE, {"a": one, "b": grown}, "step")["worst"].tolist() == [0.0, 0.5]


def test_each_run_has_the_saturation_of_its_own_snapshots():
    from moeviz_app.views.training_charts import _read, _saturation

    frames = []
    for name in ("aux-on", "aux-off"):
        run = run_at(EXAMPLE_FOLDER / name)
        files = tuple((str(file), file.stat().st_mtime_ns) for file in run.snapshots.values())
        frames.append(_saturation(files, _read(run.snapshots)))
    assert len(frames[0]) == len(frames[1]) and not frames[0].equals(frames[1])
