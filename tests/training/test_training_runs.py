"""A run as a value: its files whole, damaged and growing, its alarms, the pair that ships, and the command."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.training_pair import collapse, said
from moeviz.cli.main import main
from moeviz.errors import InvalidTrace
from moeviz.formats.importers.importer import ImportOptions
from moeviz.training import Rules, read_run, read_run_file
from moeviz.training.alarms import Alarms, LogFigures, Watched
from moeviz.training.reading import EXAMPLE_FOLDER, as_of, example_runs
from moeviz.training.recorded.claims import router_verdict
from moeviz.training.recorded.rules import of_json
from moeviz.training.recorded.run import LAYERS, RunFacts, TrainingRun, empty
from moeviz.training.routing_file import TOGETHER
from moeviz.training.trainer_logs import _logs
from moeviz.training.writing import RunWriter

WATCHED = Watched((0, 1), (4, 4), 1, has_aux=True)
EVEN = [[250] * 4, [250] * 4]


def seen(step, counts=EVEN, tokens=10**6, aux=True, coefficient=0.1, **figures):
    plain = {"z_loss": 1.0, "logit_rms": 1.0, "mass": 0.5, "tokens": 1000} | figures
    return LogFigures(step, np.array(counts), [plain, plain], tokens, aux, coefficient)


def after(alarms, *logs):
    """What is said at each log."""
    found = []
    for log in logs:
        alarms.follow([log.step], log.counts[None])
        found.append([(event["kind"], event["layer"], event["on"]) for event in alarms.judge(log)])
    return found


# --- alarms


def test_an_expert_is_dead_after_an_even_share_of_a_thousand_and_back_with_a_hundredth():
    one_idle = [[250] * 4, [0, 300, 350, 350]]
    alarms = Alarms(WATCHED)
    found = after(alarms, *[seen(step, one_idle) for step in (1, 2, 3)])
    assert found == [[], [], []] and alarms.dead_of(1) == []
    assert after(alarms, seen(4, one_idle)) == [[("dead", 1, True)]]
    assert (
        alarms.on["dead", 1]
        == "layer 1: expert 0 of 4 has been dead since step 1; the coefficient of the aux loss is 0.1"
    )
    few, more = ([[1000] * 4, [count, 1333, 1333, 1334 - count]] for count in (9, 20))
    assert after(alarms, seen(5, few), seen(6, few)) == [[("dead", 1, True)], []] and alarms.dead_of(1) == []
    assert alarms.on["dead", 1].startswith(
        "layer 1: an expert that was dead gets less than 1/100 of its uniform share;"
    )
    assert after(alarms, seen(7, more)) == [[("dead", 1, False)]]


def test_another_expert_that_dies_is_said_and_one_that_is_not_back_is_not_said_again():
    logs = [[0, 400, 300, 300], [0, 400, 300, 300], [0, 1000, 0, 0], [0, 1000, 0, 0], [0, 1000, 0, 1]]
    alarms = Alarms(WATCHED, Rules(dead=250, ignore=("load", "collapse")))
    found = []
    for log in [seen(step, [[250] * 4, counts]) for step, counts in enumerate(logs, 1)]:
        alarms.follow([log.step], log.counts[None])
        found.append([event["says"] for event in alarms.judge(log)])
    assert found[1] == [] and found[3] == []
    assert found[4] == [
        "step 5: layer 1: 2 of 4 experts have been dead since step 3; the coefficient of the aux loss is 0.1"
    ]
    assert found[0] == [
        "step 1: layer 1: expert 0 of 4 has been dead since step 1; the coefficient of the aux loss is 0.1"
    ]
    assert found[2] == [
        "step 3: layer 1: 3 of 4 experts have been dead since step 3; the coefficient of the aux loss is 0.1"
    ]


def test_whether_an_expert_is_dead_is_exact_however_rarely_a_log_is_made():
    counts = np.tile(np.array(EVEN), (10, 1, 1))
    counts[3:, 0, 2] = 0  # from step 4 on
    rare = Alarms(WATCHED)
    rare.follow(range(1, 11), counts)
    assert rare.dead_of(0) == [[2, 4]]


def test_load_is_judged_by_assignments_and_not_by_steps():
    uneven = [[40, 20, 20, 20], [70, 10, 10, 10]]
    alarms = Alarms(WATCHED)
    found = after(alarms, *[seen(step, uneven) for step in range(1, 41)])
    assert found[:39] == [[]] * 39 and found[39] == [("load", 1, True)]  # 40 x 100 / 4 = 1,000
    assert "expert 0 has 2.8 times its share (of at most 4)" in alarms.on["load", 1]
    found = after(alarms, *[seen(step, EVEN) for step in range(41, 53)])
    assert found == [[]] * 11 + [[("load", 1, False)]], "three judgements of four steps each"
    # The control: judged by steps, it is said at once.
    assert after(Alarms(WATCHED, Rules(enough=1)), seen(1, uneven)) == [[("load", 1, True)]]


def test_collapse_takes_the_place_of_load_and_gives_it_back():
    alarms = Alarms(WATCHED)
    found = after(
        alarms,
        seen(1, [[1000] * 4, [2800, 400, 400, 400]]),
        seen(2, [[1000] * 4, [3900, 40, 30, 30]]),
        *[seen(step, [[1000] * 4, [2600, 467, 467, 466]]) for step in (3, 4, 5)],
    )
    assert found[0] == [("load", 1, True)]
    assert found[1] == [("collapse", 1, True), ("load", 1, False)]
    assert found[2:] == [[], [], [("load", 1, True), ("collapse", 1, False)]]


def test_only_the_dead_are_said_before_the_warm_up_is_over():
    bad = [[1000] * 4, [4000, 0, 0, 0]]
    alarms = Alarms(WATCHED, Rules(warmup=5_000))
    assert after(alarms, seen(1, bad, tokens=4_000, aux=False)) == [[("dead", 1, True)]]
    later = after(alarms, seen(2, bad, tokens=8_000, aux=False))[0]
    assert ("collapse", 1, True) in later and ("aux_off", None, True) in later


def test_what_was_collapsed_during_the_warm_up_is_no_alarm_after_it():
    collapsed = [[1000] * 4, [4000, 0, 0, 0]]
    alarms, rules = {}, {"even after it": Rules(warmup=80_000, ignore=("dead",)), "no warm-up": Rules(ignore=("dead",))}
    for name, rule in rules.items():
        alarms[name] = Alarms(WATCHED, rule)
        logs = [seen(step, collapsed if step < 21 else [[1000] * 4] * 2, 4_000 * step) for step in range(1, 25)]
        said = after(alarms[name], *[replace(log, rows=[{**row, "tokens": 4_000} for row in log.rows]) for log in logs])
        assert (said == [[]] * 24) == (name == "even after it")


def test_an_aux_loss_that_is_off_is_said_for_families_that_have_one():
    for has_aux, aux, coefficient, expected in (
        (True, False, 0.1, True),
        (True, True, 0.0, True),
        (True, True, 0.1, False),
        (False, False, None, False),
    ):
        alarms = Alarms(Watched((0, 1), (4, 4), 1, has_aux))
        found = after(alarms, seen(1, aux=aux, coefficient=coefficient))
        assert found == [[("aux_off", None, True)] if expected else []]
    ignored = Alarms(WATCHED, Rules(ignore=("aux_off",)))
    assert after(ignored, seen(1, aux=False)) == [[]]


def test_logits_that_grow_and_a_router_that_is_too_sure_are_said():
    enough = [[1000] * 4] * 2
    alarms = Alarms(WATCHED)
    found = after(alarms, *[seen(step, enough, z_loss=z) for step, z in ((10, 2.0), (60, 3.0), (105, 4.1), (250, 4.2))])
    assert found == [[], [], [("logits", 0, True), ("logits", 1, True)], [("logits", 0, False), ("logits", 1, False)]]
    alarms = Alarms(WATCHED)
    found = after(
        alarms, *[seen(step, enough, mass=mass) for step, mass in enumerate((0.96, 0.97, 0.965, 0.9, 0.9, 0.9))]
    )
    said = [[event[0] for event in said] for said in found]
    assert said == [[], ["confidence"] * 2, [], [], [], ["confidence"] * 2]


def hovering(kind: str, step: int, random: np.random.Generator) -> dict:
    """What one log sees while the figure of this alarm wanders around its threshold."""
    if kind == "dead":  # a token in a uniform share of 1,000, on average
        return {"counts": [[250] * 4, [random.poisson(0.25), 250, 250, 250]]}
    if kind == "load":
        return {"counts": np.array([[1000] * 4, random.multinomial(4000, [0.5, 0.17, 0.17, 0.16])])}
    if kind == "collapse":  # exp(entropy) / 4 is 0.5 where one has 0.811 of the work
        busy = random.normal(0.811, 0.01)
        return {"counts": [[1000] * 4, [int(4000 * busy), *[int(4000 * (1 - busy) / 3)] * 3]]}
    if kind == "confidence":
        return {"counts": [[1000] * 4] * 2, "mass": random.normal(0.95, 0.003)}
    return {"z_loss": 2 ** (2 + step / 100) * random.normal(1, 0.03)}  # twice as much within 100 steps


@pytest.mark.parametrize("kind", ["dead", "load", "collapse", "confidence", "logits"])
def test_a_figure_that_hovers_at_its_threshold_is_one_alarm_and_not_twenty(kind, monkeypatch):
    def begun(rules: Rules) -> int:
        random, alarms = np.random.default_rng(0), Alarms(WATCHED, rules)
        logs = [seen(step, **hovering(kind, step, random)) for step in range(1, 401)]
        events = [
            (kind, 1, False),
            *(event for said in after(alarms, *logs) for event in said if event[:2] == (kind, 1)),
        ]
        return sum(now[2] and not before[2] for before, now in pairwise(events))

    only = {"ignore": tuple({"dead", "load", "collapse", "confidence", "logits"} - {kind})}
    assert begun(Rules(**only)) == 1
    monkeypatch.setattr("moeviz.training.alarms.CALM", 1)  # the control: as if there were nothing between on and over
    monkeypatch.setattr("moeviz.training.alarms.SELDOM", 1e-9)
    assert begun(Rules(**only, margin=0.0)) > 10


def test_alarms_go_on_from_what_a_checkpoint_kept():
    logs = [seen(step, [[250] * 4, [0, 800, 100, 100]], z_loss=1.0 + step) for step in range(1, 12)]
    whole, first = Alarms(WATCHED), Alarms(WATCHED)
    expected = after(whole, *logs)
    begun = after(first, *logs[:5])
    kept = json.loads(json.dumps(first.state_dict()))
    second = Alarms(WATCHED)
    second.load_state_dict(kept)
    assert begun + after(second, *logs[5:]) == expected and any(expected)


def test_rules_refuse_what_cannot_be():
    with pytest.raises(InvalidTrace, match="'deaf'"):
        Rules(ignore=("deaf",))
    with pytest.raises(InvalidTrace, match="above 0"):
        Rules(enough=0)
    with pytest.raises(InvalidTrace, match="below 1"):
        Rules(margin=1.0)
    assert of_json({"margin": 7.0, "warmup": -1, "mass": float("nan")}) == Rules(), "a file may say anything"
    assert of_json({"margin": 0.0}).margin == 0


def alarms_by(rules: Rules, steps: list[int], tokens: list[int], counts: np.ndarray) -> dict[str, int]:
    """Kinds of alarms, and the step at which each first began, in a run of two layers of eight experts, top-2."""
    alarms, first = Alarms(Watched((0, 1), (8, 8), 2), rules), {}
    for at, step in enumerate(steps):
        log = seen(step, counts[at], tokens[at])
        log = replace(log, rows=[row | {"tokens": int(counts[at].sum()) // 4} for row in log.rows])
        first |= {kind: step for kind, _, on in after(alarms, log)[0] if on and kind not in first}
    return first


def test_rules_for_a_run_from_scratch_are_quiet_where_it_is_uneven_at_first_and_say_a_collapse_as_soon():
    """The same model from random weights: balanced by the aux loss, with seed 3; and without it, as it ships."""
    kept = json.loads((Path(__file__).parents[1] / "data" / "uneven_run.json").read_text())
    uneven = kept["step"], kept["tokens"], np.array(kept["counts"])
    collapsed = example_runs()["aux-off"]
    collapsed = collapsed.logs["step"].tolist(), collapsed.logs["tokens"].tolist(), collapsed.counts
    scratch = Rules.from_scratch(warmup=4_608)  # a tenth of either
    assert alarms_by(Rules(), *uneven).keys() == {"load", "dead"} and alarms_by(scratch, *uneven) == {}
    assert alarms_by(Rules(), *collapsed)["collapse"] == alarms_by(scratch, *collapsed)["collapse"] == 30
    assert Rules.from_scratch(dead=5, ignore=("load",)) == Rules(5, 1_000, 1.5, warmup=1_000_000, ignore=("load",))


# --- files


@pytest.fixture
def run_folder(tmp_path):
    """A copy of the run without aux loss that ships."""
    folder = tmp_path / "run"
    folder.mkdir()
    for file in (EXAMPLE_FOLDER / "aux-off").glob("*.jsonl"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_last_line_that_is_half_written_is_left_out_and_said(run_folder):
    file, whole = run_folder / "routing.jsonl", read_run(run_folder)
    data = file.read_bytes()
    file.write_bytes(data[:-100])
    growing = read_run(run_folder)
    assert len(growing.logs) == len(whole.logs) - 1 and "is not finished" in growing.notes[0] and whole.notes == ()
    file.write_bytes(data[:-1])  # whole, without its end
    assert read_run(run_folder).notes == () and len(read_run(run_folder).logs) == len(whole.logs)


def test_of_a_long_file_every_so_many_logs_are_read_and_the_last_and_all_alarms(run_folder, monkeypatch):
    file, whole = run_folder / "routing.jsonl", read_run(run_folder)
    monkeypatch.setattr("moeviz.training.routing_file.MAX_READ", -(-file.stat().st_size // 4))
    long = read_run(run_folder)
    assert long.logs["step"].tolist() == [20, 40, 60, 80, 90] and len(whole.logs) == 18
    assert long.alarms.equals(whole.alarms) and len(long.alarms) > 2 and long.snapshots == whole.snapshots
    assert long.logs["alarms"].tolist() == whole.logs.set_index("step")["alarms"][[20, 40, 60, 80, 90]].tolist()
    assert np.array_equal(long.counts, whole.counts[[3, 7, 11, 15, 17]])
    assert "one log of 4 is read" in long.notes[0] and whole.notes == ()
    file.write_bytes(file.read_bytes()[:-100])
    assert read_run(run_folder).logs["step"].tolist() == [20, 40, 60, 80, 85], "the last that is whole"


def test_a_line_without_end_is_one_damaged_line_or_two_and_not_the_memory_of_the_machine(run_folder, monkeypatch):
    file, whole = run_folder / "routing.jsonl", read_run(run_folder)
    monkeypatch.setattr("moeviz.training.routing_file.MAX_LINE", 4_000)
    first, *others = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([first, b"[" * 7_000 + b"\n", *others]))
    run = read_run(run_folder)
    assert run.notes == ("2 damaged lines of routing.jsonl were left out.",) and run.logs.equals(whole.logs)


def test_of_more_counts_than_are_held_every_so_many_logs_are_shown(run_folder, monkeypatch):
    whole = read_run(run_folder)
    monkeypatch.setattr("moeviz.training.reading.MAX_CELLS", 100)
    run = read_run(run_folder)
    assert run.logs["step"].tolist() == [15, 30, 45, 60, 75, 90] and run.counts.size <= 100
    assert run.alarms.equals(whole.alarms) and "one log of 3 is shown" in run.notes[0]


def test_a_writer_does_not_join_its_line_to_a_half_written_one(run_folder):
    file = run_folder / "routing.jsonl"
    file.write_bytes(file.read_bytes()[:-100])
    RunWriter(run_folder).fact("It went on.")
    run = read_run(run_folder)
    assert "It went on." in run.facts.said and run.notes == ("One damaged line of routing.jsonl was left out.",)


@pytest.mark.parametrize(
    "line",
    [
        b"[1, 2]",
        b"nonsense",
        b'{"step": -1, "tokens": 5, "layers": []}',
        b'{"step": 1e999, "tokens": 5, "layers": []}',
        b'{"step": 3, "tokens": 5, "layers": [{"layer": 0, "counts": [[1], 2]}]}',
        b'{"step": 3, "tokens": 5, "layers": [{"layer": 0, "counts": [-1, 2]}]}',
        b'{"step": 3, "tokens": 5, "layers": [], "alarms": [{"kind": "<b>", "layer": 0, "on": true, "says": "x"}]}',
        b'{"step": 3, "tokens": 5, "layers": [], "alarms": [{"kind": "load", "on": true, "says": "\\ud800"}]}',
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"format": "moeviz training v9"}',
    ],
)
def test_a_line_that_makes_no_sense_is_left_out(run_folder, line):
    file, whole = run_folder / "routing.jsonl", read_run(run_folder)
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], line + b"\n", *lines[1:]]))
    run = read_run(run_folder)
    assert run.notes == ("One damaged line of routing.jsonl was left out.",)
    assert run.logs.equals(whole.logs) and np.array_equal(run.counts, whole.counts)


def test_any_cut_and_any_flipped_byte_is_read_or_refused(run_folder):
    data, random = (run_folder / "routing.jsonl").read_bytes()[:40_000], np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(data[: random.integers(1, len(data))])
        for place in random.integers(0, len(damaged), 5):
            damaged[place] = random.integers(256)
        try:
            run = read_run_file(bytes(damaged), "routing.jsonl")
        except InvalidTrace as error:
            assert str(error).endswith(".")
        else:
            assert run.counts is None or run.counts.shape[0] == len(run.logs)


def test_the_last_line_of_a_step_wins_and_a_run_that_goes_on_forgets_what_came_after(tmp_path):
    def log(step, loss):
        return json.dumps({"step": step, "tokens": step, "loss": loss, "layers": []})

    begin = json.dumps({"format": "moeviz training v1", "from_step": 0})
    resumed = json.dumps({"format": "moeviz training v1", "from_step": 2})
    lines = [begin, log(1, 1.0), log(2, 2.0), log(3, 3.0), log(5, 5.0), resumed, log(3, 3.5)]
    (tmp_path / "routing.jsonl").write_text("\n".join(lines) + "\n")
    assert dict(read_run(tmp_path).logs[["step", "loss"]].values) == {1: 1.0, 2: 2.0, 3: 3.5}
    with (tmp_path / "routing.jsonl").open("a") as file:
        file.write(f"{begin}\n{log(1, 9.0)}\n")
    assert dict(read_run(tmp_path).logs[["step", "loss"]].values) == {1: 9.0}


def rows_of_many(step, layers=16, experts=80):
    counts = np.random.default_rng(step).integers(0, 99, (layers, experts))
    return [
        {
            "layer": 2 * at,
            "tokens": 7,
            "assignments": int(row.sum()),
            "max_violation": 0.5,
            "counts": row,
            "importance": row / row.sum(),
        }
        for at, row in enumerate(counts)
    ]


def test_counts_of_many_experts_lie_in_parquet_and_come_back(tmp_path):
    writer, steps = RunWriter(tmp_path / "run"), range(1, TOGETHER + 6)
    writer.begin({"layers": list(range(0, 32, 2)), "num_experts": [80] * 16, "top_k": 4}, 0)
    for step in steps:
        dead = [[[3, step]]] + [[]] * 15
        writer.log({"step": step, "steps": 1, "tokens": 7 * step, "loss": None}, rows_of_many(step), dead)
    run = read_run(tmp_path / "run")
    assert len(list((tmp_path / "run" / "counts").iterdir())) == 6  # of 69, of which 64 became one
    for at, step in enumerate(steps):
        np.testing.assert_array_equal(run.counts[at], [row["counts"] for row in rows_of_many(step)])
        np.testing.assert_allclose(run.importance[at], [row["importance"] for row in rows_of_many(step)], rtol=1e-6)
    assert (run.dead_since[:, 0, 3] == list(steps)).all() and (run.dead_since[:, 1:] == -1).all()
    assert max(map(len, (tmp_path / "run" / "routing.jsonl").read_text().splitlines())) < 4_000
    (tmp_path / "run" / "counts" / "part-000066.parquet").write_bytes(b"PAR1 nonsense")
    damaged = read_run(tmp_path / "run")
    assert "part-000066.parquet cannot be read" in damaged.notes[0]
    assert (damaged.counts[66] == -1).all() and np.array_equal(damaged.counts[65], run.counts[65])
    alone = read_run_file((tmp_path / "run" / "routing.jsonl").read_bytes(), "routing.jsonl")
    assert alone.counts is None and "next to routing.jsonl" in alone.notes[0] and len(alone.layers) == 69 * 16


def test_a_disk_that_is_full_ends_no_training(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    writer = RunWriter(tmp_path / "file" / "run")
    writer.begin({}, 0)
    assert "the training goes on" in caplog.text


def test_what_is_no_run_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidTrace, match="run"):
        read_run(tmp_path / "empty")
    (tmp_path / "routing.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(InvalidTrace, match="log"):
        read_run(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_run(tmp_path / "nowhere")
    for name in ("a\0b", "a" * 300):
        with pytest.raises(InvalidTrace, match="name"):
            read_run(tmp_path / name)
    with pytest.raises(InvalidTrace, match=r"\b5\b"):
        read_run(EXAMPLE_FOLDER / "aux-on", max_bytes=5)


def test_megatrons_log_is_a_run(tmp_path):
    folder = tmp_path / "tokens_per_expert"
    folder.mkdir()
    lines = [
        {"iter": step, "block": "decoder", "layer": layer, "tpe": [[4, 0, 2, 2], [3, 1, 2, 2]]}
        for step in (100, 200)
        for layer in (1, 2)
    ]
    (folder / "rank0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(tmp_path, ImportOptions(top_k=2, expert_parallel=1))
    assert run.facts.source == "megatron-lm" and run.logs["step"].tolist() == [100, 200]
    assert run.counts.tolist() == [[[7, 1, 4, 4]] * 2] * 2
    assert run.layers["max_violation"].tolist() == [0.75] * 4 and (run.layers["dead"] == -1).all()
    assert run.dead_since is None and "may count tokens twice" in run.notes[0]
    with pytest.raises(InvalidTrace, match="--expert-parallel"):
        read_run(tmp_path, ImportOptions(top_k=2))


# --- the pair that ships, and the command


def test_the_pair_that_ships_shows_a_collapse_that_was_said_and_a_run_that_is_quiet():
    runs = example_runs()
    on, off = runs["aux-on"], runs["aux-off"]
    assert collapse(on) == {} and not on.alarms["on"].any() and len(on.alarms) == 0
    happened, announced = collapse(off), said(off)
    assert happened and happened.keys() == announced.keys()
    assert all(0 <= announced[layer] - happened[layer] <= 30 for layer in happened)
    assert set(off.alarms[off.alarms["on"]]["kind"]) >= {"aux_off", "collapse"}
    assert on.logs["step"].tolist() == off.logs["step"].tolist() and len(on.snapshots) == len(off.snapshots) == 8
    size = sum(file.stat().st_size for file in EXAMPLE_FOLDER.rglob("*") if file.is_file())
    assert size < 300_000
    assert on.facts.layers == (0, 1) and on.facts.top_k == 2 and on.facts.score_function == "softmax"


def test_the_command_says_alarms_and_exits_with_3_where_one_is_on(capsys):
    assert main(["watch", str(EXAMPLE_FOLDER / "aux-on")]) == 0
    assert "No alarm is on at step 90." in capsys.readouterr().out
    assert main(["watch", str(EXAMPLE_FOLDER / "aux-off"), "--rows", "2"]) == 1
    text = capsys.readouterr().out
    assert "ALARM" in text and "of the work; no aux loss is computed" in text and "Stop. Go back" in text
    assert main(["watch", str(EXAMPLE_FOLDER / "aux-off"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {alarm["kind"] for alarm in found["alarms"]["on"]} >= {"collapse", "aux_off"}
    kinds = ["aux_off", "collapse", "load", "dead", "logits", "confidence"]
    assert main(["watch", str(EXAMPLE_FOLDER / "aux-off"), "--ignore", *kinds]) == 0
    capsys.readouterr()
    assert main(["watch", str(EXAMPLE_FOLDER / "aux-off"), "--ignore", "noise"]) == 3
    assert main(["watch", "nowhere"]) == 3


def test_a_source_that_says_how_many_alarms_are_on_and_not_which_is_believed(capsys, monkeypatch):
    for number, shown, code in (
        (3, "3 alarms on", 1),
        (1, "1 alarm on", 1),
        (0, "0 alarms on", 0),
        (None, "alarms unknown", 0),
    ):
        found = {"train/moe/tokens": [(5, 100.0), (10, 200.0)]}
        found |= {} if number is None else {"train/moe/alarms": [(5, 0.0), (10, float(number))]}
        run = TrainingRun("events", RunFacts("tensorboard"), _logs(found), empty(LAYERS))
        assert run.alarms_on == number and shown in repr(run)
        monkeypatch.setattr("moeviz.training.reading.read_run", lambda *_, run=run: run)
        assert main(["watch", "events"]) == code
        text = capsys.readouterr().out
        assert ("open the folder of the run" in text) == bool(number) and ("alarms" in text.rpartition("\n\n")[2]) == (
            number is not None
        )


def test_importing_it_brings_neither_torch_nor_streamlit_nor_trl():
    heavy = ("torch", "transformers", "streamlit", "trl", "tensorboard")
    code = f"import sys, moeviz.training, moeviz.cli.watch; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_a_run_as_of_a_step_is_what_its_file_held_then(tmp_path):
    (tmp_path / "run").mkdir()
    whole, lines = example_runs()["aux-off"], (EXAMPLE_FOLDER / "aux-off" / "routing.jsonl").read_text().splitlines()
    for file in (EXAMPLE_FOLDER / "aux-off").iterdir():
        if file.is_file():
            (tmp_path / "run" / file.name).write_bytes(file.read_bytes())
    verdicts = set()
    for step in whole.logs["step"]:
        then = [line for line in lines if json.loads(line).get("step", 0) <= step]
        (tmp_path / "run" / "routing.jsonl").write_text("\n".join(then) + "\n")
        early, read = as_of(whole, step), read_run(tmp_path / "run")
        for name in ("logs", "layers", "alarms"):
            assert getattr(early, name).reset_index(drop=True).equals(getattr(read, name)), (step, name)
        assert np.array_equal(early.counts, read.counts)
        assert router_verdict(early) == router_verdict(read)
        verdicts.add(router_verdict(early).light)
    assert len(verdicts) > 1, "the light changes while the run goes on"
