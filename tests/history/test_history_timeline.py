"""The timeline of MoE systems, its picture, and printed parameter counts that follow from printed sizes, or do not."""

import json
import re

import altair as alt
import numpy as np
import pandas as pd
import pytest

from moeviz.history.timeline.chart import EXPERTS_AT_WORK, NUMBERS, TABLE, TIMELINE, experts_at_work, timeline
from moeviz.history.timeline.published_counts import published_counts, sparsely_gated_parameters, switch_parameters

XXL = {"model": 4096, "hidden": 10240, "heads": 64, "head": 64, "layers": 24}


@pytest.fixture(scope="module")
def systems() -> pd.DataFrame:
    return timeline()


@pytest.fixture(scope="module")
def counts() -> pd.DataFrame:
    return published_counts()


def test_a_sparsely_gated_model_by_hand():
    """d 2, h 3, 5 experts in 2 groups: experts 5 * 2*2*3 = 60, routers 2*2*(5 + 2) = 28, LSTMs 2 * 4*2*(2+2) = 64."""
    assert sparsely_gated_parameters(5, 2, model=2, hidden=3) == 60 + 28 + 64


def test_a_gated_switch_by_hand():
    """d 2, f 3, one head of 2, 2 + 2 layers, 4 experts in every second, 10 words.

    Embedding and output head 2 * 10*2, attention (2 + 2*2) * 4*2*2, two dense layers of 3*2*3, two MoE layers of
    4 * 18 and a router of 2*4.
    """
    ours = switch_parameters(model=2, hidden=3, heads=1, head=2, layers=2, experts=4, vocabulary=10)
    assert ours == 40 + 96 + 2 * 18 + 2 * (72 + 8)


def test_switch_c_is_exact(counts):
    """Its 15 + 15 layers are all MoE: experts 30 * 2048 * 2*2080*6144, and the rest is under a tenth of a per cent."""
    ours = int(counts.set_index("system").loc["Switch-C", "ours"])
    assert ours == 1_571_308_810_240
    assert 0 < 1 - 30 * 2048 * 2 * 2080 * 6144 / ours < 0.001


def test_the_columns_of_the_timeline(systems):
    words = ("date", "name", "family", "source", "status", "remark")
    expected = dict.fromkeys(words, "str") | dict.fromkeys((*NUMBERS, "year"), "float64")
    assert dict(systems.dtypes.astype(str)) == expected
    assert set(systems["status"]) == {"read", "secondary", "memory"}
    assert systems["name"].is_unique and systems["year"].is_monotonic_increasing


@pytest.mark.parametrize("row", timeline().to_dict("records"), ids=lambda row: row["name"])
def test_every_system_has_a_source_and_numbers_that_fit_together(row):
    assert row["source"].strip() and row["family"].strip()
    assert re.fullmatch(r"\d{4}(-(0[1-9]|1[0-2]))?", row["date"])
    assert int(row["date"][:4]) <= row["year"] < int(row["date"][:4]) + 1
    for part, whole in (("active", "total"), ("top_k", "experts")):
        assert np.isnan(row[part]) or 0 < row[part] <= row[whole]
    for number in NUMBERS:
        assert np.isnan(row[number]) or row[number] == int(row[number]) > 0


def test_an_arxiv_number_is_of_the_month_of_the_system_or_later(systems):
    """A paper may follow its model, as Mixtral's did, but not come before it by more than a day's rounding."""
    papers = systems[systems["source"].str.startswith("arXiv")]
    months = papers["source"].str.extract(r"arXiv (\d\d)(\d\d)\.\d{4,5}$").astype(int)
    system = papers["date"].str.extract(r"20(\d\d)-(\d\d)$").astype(int)
    assert len(papers) > 10
    assert (12 * months[0] + months[1] >= 12 * system[0] + system[1]).all()


def test_the_middle_of_the_month_is_the_year(systems):
    years = systems.set_index("name")["year"]
    assert years["8 local experts"] == 1991
    assert years["Sparsely-gated MoE"] == pytest.approx(2017 + 1 / 24)


def test_the_timeline_agrees_with_the_counts(systems, counts):
    """Each to the digits that the timeline has."""
    total, ours = systems.set_index("name")["total"], counts.set_index("system")["ours"]
    assert total["Switch-C"] / 1e9 == round(ours["Switch-C"] / 1e9)
    assert total["Sparsely-gated MoE"] / 1e9 == round(ours["MoE-131072-h"] / 1e9, 1)


def test_what_is_not_published_stays_missing(systems):
    rows = systems.set_index("name")
    assert np.isnan(rows.loc["Switch-C", "active"]) and np.isnan(rows.loc["Expert Choice", "total"])
    assert rows.loc["Switch-C", "remark"] == "" and "nan" not in TABLE.read_text()


def marks(chart: alt.LayerChart) -> pd.DataFrame:
    return next(layer.data for layer in chart.layer if "kind" in getattr(layer, "data", ()))


def test_the_timeline_draws_a_mark_for_every_published_number(systems):
    chart = TIMELINE.draw(TIMELINE.measure())
    assert TIMELINE.question.endswith("?")
    drawn = marks(chart)
    sized = systems[systems["total"].notna()]
    assert drawn.groupby("kind")["parameters"].count().to_dict() == {
        "all": len(sized),
        "active for one input": sized["active"].notna().sum(),
    }
    assert set(drawn.query("status == 'memory'")["name"]) == {"ST-MoE-32B"}
    spec = json.dumps(chart.to_dict())
    assert "datum.status === 'memory'" in spec or "datum.status == 'memory'" in spec


def test_every_number_drawn_is_inside_the_axes(systems):
    spec = TIMELINE.draw(systems).to_dict()
    point = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "point")["encoding"]
    drawn = marks(TIMELINE.draw(systems))
    for axis, field in (("x", "year"), ("y", "parameters")):
        corners = point[axis]["scale"]["domain"]
        assert len(corners) == len(point[axis]["scale"]["range"])
        assert corners[0] < drawn[field].min() and drawn[field].max() < corners[-1]


def test_systems_of_one_month_stand_side_by_side_around_it(systems):
    drawn = marks(TIMELINE.draw(systems)).query("kind == 'all'")
    assert not drawn.query("date != '1991'")["year"].duplicated().any()
    month = drawn[drawn["date"] == "2025-04"]["year"]
    assert len(month) == 4 and month.mean() == pytest.approx(2025 + 3.5 / 12)


def test_experts_at_work_are_those_that_are_chosen_or_all_behind_a_soft_gate(systems):
    frame = experts_at_work().set_index("name")
    assert (frame.loc[["4 local experts", "8 local experts", "Deep mixture of experts"], "at_work"] == [4, 8, 4]).all()
    assert frame.loc["Mixtral 8x7B", ["experts", "at_work"]].tolist() == [8, 2]
    assert (frame["at_work"] <= frame["experts"]).all() and "Policy-gated blocks" not in frame.index
    chosen = systems[systems["top_k"].notna()]
    assert len(frame) == len(chosen) + systems["remark"].str.contains("soft gate runs every").sum()
    spec = EXPERTS_AT_WORK.draw(experts_at_work()).to_dict()
    low, high = spec["layer"][1]["encoding"]["y"]["scale"]["domain"]
    assert low <= frame["at_work"].min() and frame["experts"].max() < high


def test_leaps_are_named(systems):
    """Half as large again as any before: not DeepSeek-V4 Pro, whose 1.6T is hardly above Switch-C's 1.571T."""
    spec = TIMELINE.draw(systems).to_dict()
    text = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "text")
    names = [row["name"] for row in spec["datasets"][text["data"]["name"]]]
    assert names == [
        "8 local experts",
        "Sparsely-gated MoE",
        "GShard",
        "Switch-C",
        "Mixtral 8x7B",
        "DeepSeek-V3",
        "Kimi K3",
    ]
