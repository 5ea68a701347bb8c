"""Every chart there is: add a row to a CHARTS table and these tests cover it."""

import json
from dataclasses import replace
from functools import cache

import altair as alt
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from chart_cases import (
    CHARTS,
    GOLDEN,
    HISTORY_CHARTS,
    OF_ONE_EXPERT,
    check_golden,
    encodings,
    fitted,
    repeated,
    sized,
    steady,
    tables,
)
from labels import labelled
from made_runs import CHARTS as OF_TRAINING

from moeviz import RoutingTrace
from moeviz.capture.models.kv_cache import served_model
from moeviz.charts import NAMED, TOPICS, specialization, theme, vocabulary
from moeviz.charts.balance import BALANCE
from moeviz.charts.chart import EXPERT, clickable
from moeviz.charts.comparison import COMPARISONS
from moeviz.charts.contribution import CONTRIBUTION
from moeviz.charts.effect import DIRECT, EFFECT, WORD_CHANGE
from moeviz.charts.engine_difference import CHARTS as OF_ENGINES
from moeviz.charts.expert import ATLAS, ATLAS_CELLS, COMPANY, KINDS, LOADS, ROWS, TOKENS
from moeviz.charts.lineage import FATES, GRID
from moeviz.charts.load import MOST_COLUMNS, OVER_TIME
from moeviz.charts.multi_trace import CHARTS as OF_SEVERAL
from moeviz.charts.multi_trace import SATURATION
from moeviz.charts.pruning import COST
from moeviz.charts.pruning import KINDS as OF_KINDS
from moeviz.charts.serving import BATCH, FITS, MEMORY, PLANE, hit_rate_curve
from moeviz.charts.serving import CHARTS as OF_SERVING
from moeviz.charts.token_layer_map import first_letters
from moeviz.charts.tokens import WITH_TEXTS
from moeviz.embedded.recorded_routing import expert_table_of
from moeviz.errors import MissingField, MoevizError
from moeviz.metrics.specialization import label_divergence, load_by_label
from moeviz.metrics.tokens import token_choices, token_expert
from moeviz.metrics.vocabulary import top_tokens
from moeviz.report.pictures import Unchecked
from moeviz.serving.batches import batch_coverage
from moeviz.serving.budget import hit_rates
from moeviz.serving.placement import serving_placement
from moeviz.testing import sample_trace

OF_PAGES = [BALANCE, *OF_SERVING, MEMORY]
every_chart = pytest.mark.parametrize("chart", [*CHARTS, *OF_PAGES], ids=lambda chart: chart.key)


@cache
def sample_spec(chart) -> dict:
    """What the chart draws of the sample trace, drawn once for all the tests that look at it."""
    part = fitted(labelled(sized(sample_trace())), chart)
    if chart in (FITS, MEMORY):
        part = served_model("mistralai/Mixtral-8x7B-v0.1")
    more = ("RTX 4090",) if chart is MEMORY else ()
    return chart.draw(chart.measure(repeated(part) if chart in vocabulary.CHARTS else part, *more)).to_dict()


@pytest.mark.parametrize("chart", [chart for chart in [BALANCE, *CHARTS] if chart.expert], ids=lambda chart: chart.key)
def test_marks_that_are_experts_can_be_clicked_and_no_other_marks_look_so(chart):
    part = fitted(labelled(sized(sample_trace())), chart)
    frame = chart.measure(repeated(part) if chart in vocabulary.CHARTS else part)
    spec = clickable(chart.picture(frame), ["layer", chart.expert]).to_dict()
    (chosen,) = (param for param in spec["params"] if param["name"] == EXPERT)
    assert chosen["select"] == {"type": "point", "fields": ["layer", chart.expert], "on": "click"}
    hands = list(with_hands(spec))
    assert {chart.expert in columns for columns, hand in hands if hand} == {True}
    assert not [columns for columns, hand in hands if chart.expert in columns and not hand]
    plain = chart.picture(frame)
    assert "params" not in plain.to_dict(), "files and notebooks have no page to lead to"
    selection = alt.selection_point(name=EXPERT, fields=["layer", chart.expert], on="click", empty=False)
    by_altair = alt.LayerChart(**plain._kwds) if isinstance(plain, alt.LayerChart) else plain
    wanted = by_altair.add_params(selection).to_dict()
    assert without(spec, "cursor", "name", "views", "data") == without(wanted, "cursor", "name", "views", "data")
    assert chosen.get("views", []) == ([first_view(spec)] if "layer" in spec else [])


def with_hands(spec: dict):
    """For each kind of mark, the columns of its data and whether a hand is over it."""
    for part in spec.get("layer", [spec]):
        rows = spec["datasets"][part.get("data", spec.get("data"))["name"]]
        yield set(rows[0]) if rows else set(), part["mark"].get("cursor") == "pointer"


def first_view(spec: dict) -> str:
    """The name of the first of its layers, or its own."""
    return first_view(spec["layer"][0]) if "layer" in spec else spec["name"]


def without(spec, *names: str):
    """A specification without these properties, at any depth."""
    if isinstance(spec, list):
        return [without(part, *names) for part in spec]
    if not isinstance(spec, dict):
        return spec
    return {name: without(part, *names) for name, part in spec.items() if name not in names}


def test_layers_are_what_altair_makes_of_them():
    frame, other = pd.DataFrame({"a": [1.0, 2.0]}), pd.DataFrame({"a": [3.0]})
    bars, line, own = (alt.Chart(data).encode(y="a:Q") for data in (frame, frame, other))
    for parts in (
        (bars.mark_bar(), line.mark_line()),
        (bars.mark_bar(), own.mark_rule()),
        (theme.layered(bars.mark_bar(), line.mark_line()), own.mark_rule()),
    ):
        ours, theirs = theme.layered(*parts).to_dict(), alt.layer(*parts).to_dict()
        assert ours == theirs
        assert "a" in bars.data, "what is layered stays as it was"
    assert "data" not in theme.layered(bars.mark_bar(), line.mark_line()).to_dict()["layer"][0]


@every_chart
def test_spec_matches_golden(chart, request):
    check_golden(chart, sample_spec(chart), request)


def test_every_golden_file_is_of_a_chart():
    known = {
        chart.key
        for chart in [
            *CHARTS,
            *OF_ONE_EXPERT,
            SATURATION,
            EFFECT,
            OVER_TIME,
            *(*COMPARISONS, FATES, GRID, COST, OF_KINDS, CONTRIBUTION),
            *OF_PAGES,
            *OF_ENGINES,
            *OF_SEVERAL,
            WORD_CHANGE,
            DIRECT,
        ]
    }
    known |= {chart.key for chart in [*HISTORY_CHARTS, *OF_TRAINING, *OF_SEVERAL]}
    assert {file.stem for file in GOLDEN.glob("*.json")} == known


@every_chart
def test_tooltips_have_no_field_that_vega_makes_an_image_or_a_heading_of(chart):
    tips = [tip for encoding in encodings(sample_spec(chart)) for tip in _list(encoding.get("tooltip", []))]
    names = {tip.get(key) for tip in tips for key in ("field", "title")}
    assert not names & {"image", "title"}
    assert not {"title", "background"} & sample_spec(chart).keys(), "the page has its own"


def _list(value) -> list:
    return value if isinstance(value, list) else [value]


def _map(trace: RoutingTrace):
    return TOPICS["Tokens"][0].draw(token_choices(trace))


def _cells(chart) -> pd.DataFrame:
    """The rows of its stripes."""
    return next(layer.data for layer in chart.layer if isinstance(layer.data, pd.DataFrame))


def test_repeated_words_keep_a_cell_each():
    data = _cells(_map(sample_trace(layers=2, tokens=32)))
    assert len(data) == 2 * 64
    assert data.groupby("layer")["token"].nunique().tolist() == [32, 32]


def test_an_axis_names_the_tokens_of_a_short_text_and_their_positions_otherwise():
    chart = NAMED["token_expert_grid"]
    few, many = (sample_trace(layers=1, tokens=tokens) for tokens in (WITH_TEXTS, WITH_TEXTS + 1))
    x = chart.draw(chart.measure(few)).to_dict()["encoding"]["x"]
    assert x["title"] == "token of the text" and len(x["axis"]["values"]) == WITH_TEXTS
    assert chart.draw(chart.measure(many)).to_dict()["encoding"]["x"]["title"].startswith("position")


@pytest.mark.parametrize("text", ["'\"}]);x", "\\u0022+1//", "</script>", "${width}"])
def test_a_token_on_an_axis_is_a_string_of_the_expression_and_nothing_else(text):
    trace = sample_trace(layers=1, tokens=4)
    trace = replace(trace, tokens=trace.tokens.assign(text=pd.Series([text] * 4, dtype="str")))
    chart = NAMED["token_expert_grid"]
    said = chart.draw(chart.measure(trace)).to_dict()["encoding"]["x"]["axis"]["labelExpr"]
    names, end = json.JSONDecoder().raw_decode(said[said.index("{") :])
    assert names["0"] == first_letters(text) and said[said.index("{") + end :].startswith("[datum.value]")


def test_token_text_is_made_visible():
    assert "⏎" in set(_cells(_map(sample_trace()))["shown"])


def test_a_token_without_an_expert_has_no_cell(trace):
    experts, weights = trace.experts.copy(), trace.weights.copy()
    experts[0, 5], weights[0, 5] = -1, 0
    dropped = replace(trace, experts=experts, weights=weights)
    assert len(_cells(_map(dropped))) == 2 * (4 * 32 - 1)


def test_too_many_tokens_are_refused_and_not_cut():
    trace = sample_trace(layers=1, tokens=theme.MAX_TOKENS + 1)
    for chart, frame in zip(TOPICS["Tokens"], (token_choices(trace), token_expert(trace)), strict=False):
        with pytest.raises(MoevizError, match=r"256 tokens.*257"):
            chart.draw(frame)


def test_labels_are_data_and_stand_in_their_order():
    hostile = ("![p](http://example.com/p.png)", "datum.x", "\u202eprose", "")
    shown = ["![p](http://example.com/p.png)", "datum.x", "⟨U+202E⟩prose", "∅"]
    trace = labelled(sample_trace(layers=1), hostile)
    for chart in specialization.CHARTS:
        spec = json.dumps(steady(chart.draw(chart.measure(trace)).to_dict()), ensure_ascii=False)
        assert not [label for label in (*hostile, *shown) if label and label in spec]
    loads, _, divergences = specialization.CHARTS
    assert loads.draw(load_by_label(trace)).data["label"].unique().tolist() == shown
    square = divergences.draw(label_divergence(trace)).data
    assert square["label"].unique().tolist() == square["other"].unique().tolist() == shown
    assert len(square) == 16
    wide = square.pivot(index="label", columns="other", values="divergence")
    assert (wide == wide.T).all(axis=None) and (square.query("label == other")["divergence"] == 0).all()


def test_the_saturation_curve_shows_all_choices_of_every_layer_and_moment(trace, request):
    moments = {1_000: sample_trace(seed=1), 2_000: sample_trace(seed=2), 4_000: trace}
    chart = SATURATION.draw(SATURATION.measure(moments))
    data = chart.layer[0].data
    assert len(data) == 3 * 4 and set(data["choice"]) == {"all choices"}
    assert (data.query("training_tokens == 4000")["saturation"] == 1).all()
    check_golden(SATURATION, chart.to_dict(), request)


def test_what_is_not_known_has_no_marks():
    """Marks without values would be a picture without a name, for whoever hears the page."""
    lacking = ["shuffled", "shuffled_highest", "load_chance", "uniform_chance"]
    for name, more in (("information_by_layer", 2), ("flow_information", 1), ("repeated_any_choice", 2)):
        frame = NAMED[name].measure(labelled(sample_trace()))
        known, unknown = (frame.assign(**dict.fromkeys(lacking, value)) for value in (0.5, np.nan))
        assert len(NAMED[name].draw(known).layer) - len(NAMED[name].draw(unknown).layer) == more


def test_of_a_corpus_of_many_parts_the_worst_of_several_is_drawn(request):
    frame = OVER_TIME.measure(sample_trace(tokens=96), 8)
    check_golden(OVER_TIME, OVER_TIME.draw(frame).to_dict(), request)
    assert len(OVER_TIME.draw(frame).data) == len(frame) == 12 * 4
    many = pd.concat(frame.assign(part=frame["part"] + 12 * at) for at in range(50))
    drawn = OVER_TIME.draw(many).data
    assert drawn["part"].nunique() == MOST_COLUMNS and (drawn["until"] - drawn["part"] == 3).all()
    first = frame[(frame["part"] < 3) & (frame["layer"] == 1)]["max_over_mean"].max()
    assert drawn.query("part == 0 and layer == 1")["max_over_mean"].item() == pytest.approx(first)


def test_too_many_labels_are_refused_and_not_cut():
    trace = labelled(sample_trace(layers=1, tokens=101), tuple(str(n) for n in range(101)))
    with pytest.raises(MoevizError, match=r"100 labels.*101"):
        specialization.label_load_heatmap(load_by_label(trace))


def test_up_to_nine_experts_have_a_colour_each():
    assert len(set(theme.expert_colours(9))) == 9
    assert theme.OTHER not in theme.expert_colours(9)


def test_of_more_experts_the_focus_is_coloured_in_its_order():
    colours = theme.expert_colours(64, focus=(40, 2))
    assert (colours[40], colours[2]) == theme.EXPERT_COLOURS[:2]
    assert colours.count(theme.OTHER) == 62


def test_focus_is_the_most_frequent_experts_and_no_empty_slot():
    assert theme.focus(pd.Series([7, 3, 3, -1, -1, -1, 5, 5])) == (3, 5, 7)
    assert len(theme.focus(pd.Series(range(20)))) == theme.FOCUS


@pytest.mark.parametrize(
    ("page", "panel", "note"), [("#FDFDFB", "#F2F1EC", theme.NOTE), ("#14161D", "#1F222C", theme.ON_DARK[theme.NOTE])]
)
def test_lines_and_what_is_written_stand_out_on_a_light_and_a_dark_page(page, panel, note):
    for colour in (theme.CHANCE, theme.NOTE, theme.MAIN):
        assert _contrast(colour, page) >= 3
    assert _contrast(note, page) >= 4.5 and _contrast(note, panel) >= 4.5


def test_what_is_written_has_another_colour_on_a_dark_page_and_the_data_stay(trace):
    frame = pd.DataFrame({"x": [1], "text": [theme.NOTE]})
    chart = alt.Chart(frame).mark_text(color=theme.NOTE).encode(x="x:Q", text="text:N")
    light, dark = (str(Unchecked(chart, dark).to_dict()) for dark in (False, True))
    of_axes = 6  # labels and titles of axes, legends and headers
    assert light.count(theme.NOTE) == 2 + of_axes
    assert (dark.count(theme.NOTE), dark.count(theme.ON_DARK[theme.NOTE])) == (1, 1 + of_axes)


def _contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.2."""
    lower, higher = sorted((_luminance(one), _luminance(other)))
    return (higher + 0.05) / (lower + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(factor * part for factor, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_token_texts_are_data_and_made_visible():
    hostile = {"The": "![p](http://example.com/p.png)", " router": "datum.x", " sends": "\u202eprose", ".": ""}
    trace = repeated(sample_trace(layers=1))
    trace = replace(trace, tokens=trace.tokens.assign(text=trace.tokens["text"].replace(hostile)))
    for chart in vocabulary.CHARTS:
        spec = json.dumps(steady(chart.draw(chart.measure(trace)).to_dict()), ensure_ascii=False)
        assert not [text for text in hostile.values() if text and text in spec]
    cells = vocabulary.top_tokens_table(top_tokens(trace)).data
    assert {"⟨U+202E⟩prose", "∅", "␣each"} <= set(cells["shown"])
    assert "text" not in cells


def of_one_expert(chart) -> pd.DataFrame:
    """What a chart of the page of an expert draws of the sample trace."""
    trace = labelled(repeated(sample_trace()))
    if chart is ROWS:
        other = np.arange(8)
        return chart.measure(
            pd.DataFrame({"layer": 1, "expert": 3, "other": other, "cosine": 0.5 - other / 7, "norm": 1.0}), 1, 3
        )
    frame = chart.measure(trace, 1, 3)
    return frame.assign(loss_change=0.25) if chart is KINDS else frame


@pytest.mark.parametrize("chart", OF_ONE_EXPERT, ids=lambda chart: chart.key)
def test_one_expert_is_drawn(chart, request):
    frame = of_one_expert(chart)
    spec = chart.draw(frame).to_dict()
    check_golden(chart, spec, request)
    assert spec["width"] == "container"
    dark = json.dumps(steady(chart.draw(frame, dark=True).to_dict()))
    assert (theme.LESS_TO_MORE["dark"][0] in dark) == (theme.LESS_TO_MORE["light"][0] in json.dumps(steady(spec)))


def test_tokens_and_labels_of_one_expert_are_data_and_made_visible():
    trace = labelled(repeated(sample_trace()), ("![p](http://example.com/p.png)", "\u202eprose"))
    texts = {"The": "datum.x", " router": "\u202ex", " sends": "⟨U+202E⟩x"}
    trace = replace(trace, tokens=trace.tokens.assign(text=trace.tokens["text"].replace(texts)))
    for chart in (TOKENS, KINDS, ATLAS):
        spec = json.dumps(steady(chart.draw(chart.measure(trace, 1, 3)).to_dict()), ensure_ascii=False)
        assert not [text for text in ("datum.x", "example.com", "\u202e", "⟨U") if text in spec]
    rows = TOKENS.draw(TOKENS.measure(trace, 1, 3)).layer[0].data
    assert rows["shown"].is_unique and not rows["shown"].str.contains("\u202e").any()


def test_an_unused_expert_is_marked_and_a_large_atlas_is_of_one_layer():
    trace = sample_trace(layers=60, tokens=64, top_k=8, experts=512)
    frame = LOADS.measure(trace, 1, 3)
    assert (frame["tokens"] == 0).any()
    assert LOADS.draw(frame).layer[1].transform[0].filter == "datum.tokens === 0"
    drawn = [LOADS.draw(frame), COMPANY.draw(COMPANY.measure(trace, 1, 3))]
    atlas = ATLAS.measure(labelled(trace), 1, 3)
    assert len(atlas) > ATLAS_CELLS
    drawn.append(ATLAS.draw(atlas))
    assert drawn[-1].layer[0].data["layer"].unique().tolist() == [1]
    for chart in drawn:
        assert sum(arrow_bytes(frame) for frame in tables(chart)) < 1_000_000


def test_load_is_centred_on_uniform_and_an_unused_expert_has_a_sign_that_is_seen():
    chart = NAMED["load_heatmap"]
    frame = chart.measure(sample_trace(layers=2, tokens=6, experts=64))
    for page, dark in (("light", False), ("dark", True)):
        cells, unused = chart.picture(frame, dark=dark).to_dict()["layer"]
        assert cells["encoding"]["color"]["scale"]["range"] == list(theme.LESS_TO_MORE[page])
        assert unused["transform"] == [{"filter": "datum.tokens === 0"}]
        assert _contrast(unused["mark"]["color"], theme.LESS_TO_MORE[page][0]) >= 3.4
    assert (frame["tokens"] == 0).any()
    bars = NAMED["load_bars"]
    assert all(bars.picture(frame, dark).layer[0].mark.color == theme.MAIN for dark in (False, True))


def test_times_as_much_have_one_scale_from_a_quarter_to_four():
    for page, dark in (("light", False), ("dark", True)):
        colour = theme.times_colour("times", dark=dark).to_dict()
        assert colour["legend"] is None
        assert colour["scale"]["domain"] == [0.25, 0.5, 1, 2, 4] and colour["scale"]["clamp"]
        assert colour["scale"]["range"] == list(theme.LESS_TO_MORE[page])


def test_a_number_on_any_colour_can_be_read():
    for grey in range(256):
        colour = f"#{grey:02x}{grey:02x}{grey:02x}"
        ink = "#ffffff" if _luminance(colour) < theme.DARK_ENOUGH else "#000000"
        assert _contrast(ink, colour) >= 4.5, colour


LINEAGE = pd.DataFrame(
    [
        (3, 0, "moved", 3, (2,), (1.0,), 1.0, 0.0, 0.02),
        (3, 1, "averaged", 3, (0, 10), (0.5, 0.5), 1.0, 0.001, 0.01),
        (3, 2, "unrelated", 3, (), (), 0.01, np.nan, 0.01),
        (3, -1, "cut", 3, (1,), (), np.nan, np.nan, np.nan),
    ],
    columns=["layer", "expert", "what", "base_layer", "base_experts", "parts", "similarity", "difference", "runner_up"],
)


@pytest.mark.parametrize("chart", [FATES, GRID], ids=lambda chart: chart.key)
def test_spec_of_charts_of_two_checkpoints_matches_golden(chart, request):
    """Ids are in the order of numbers, and words come after them."""
    spec = chart.draw(chart.measure(LINEAGE)).to_dict()
    check_golden(chart, spec, request)
    if chart is GRID:
        assert spec["encoding"]["x"]["scale"]["domain"] == ["0", "1", "2", "cut"]
        assert spec["encoding"]["y"]["scale"]["domain"] == ["0", "1", "2", "10", "no match"]


def test_the_cost_of_cuts_is_drawn_beside_chance_and_for_each_kind_of_text(request):
    columns = ["criterion", "cut", "share", "chosen_on", "judged_on", "tokens", "loss", "loss_increase", "sd"]
    rows = [
        (criterion, cut, cut / 8, "all texts", judged, 40, 2 + more, more, sd)
        for cut in (1, 2)
        for judged, extra in (("all texts", 0), ("Python", 0.5), ("C", 0.25))
        for criterion, more, sd in (("reap", 0.1 * cut + extra, np.nan), ("random", 0.3 * cut, 0.05))
    ]
    losses = pd.DataFrame(rows, columns=columns)
    check_golden(COST, COST.draw(COST.measure(losses)).to_dict(), request)
    kinds = OF_KINDS.measure(losses[losses["cut"] == 1])
    assert kinds["kind"].tolist() == ["Python", "C"] and kinds["loss_increase"].round(2).tolist() == [0.6, 0.35]
    assert (
        kinds["at_random"].tolist() == [0.3, 0.3] and OF_KINDS.measure(losses[losses["judged_on"] == "all texts"]).empty
    )
    check_golden(OF_KINDS, OF_KINDS.draw(kinds).to_dict(), request)


def test_experts_stand_where_they_are_chosen_and_add_with_super_experts_marked(request):
    table = expert_table_of()
    frame = CONTRIBUTION.measure(table[table["layer"].isin([0, 3])])
    check_golden(CONTRIBUTION, CONTRIBUTION.draw(frame).to_dict(), request)
    odd = frame.assign(super=frame.index == 3, role="\u202e", name="=<b>")
    spec = CONTRIBUTION.draw(odd).to_dict()
    (points,) = (layer for layer in spec["layer"] if layer["mark"]["type"] == "point")
    assert points["encoding"]["shape"]["scale"]["range"] == ["circle", "diamond"]
    assert points["encoding"]["color"]["scale"]["domain"] == ["broad"]
    many = CONTRIBUTION.draw(pd.concat([frame] * 40, ignore_index=True)).to_dict()
    assert many["usermeta"]["embedOptions"]["renderer"] == "canvas" and "usermeta" not in spec


@pytest.mark.parametrize("chart", [*COMPARISONS, *OF_ENGINES, WORD_CHANGE], ids=lambda chart: chart.key)
def test_two_traces_are_drawn_with_what_luck_or_an_even_load_would_show(chart, trace, request):
    check_golden(chart, chart.draw(chart.measure((trace, sample_trace(seed=3)))).to_dict(), request)


@pytest.mark.parametrize("chart", OF_SEVERAL, ids=lambda chart: chart.key)
def test_three_models_are_drawn_with_what_chance_gives_each(chart, request):
    three = {
        name: labelled(sample_trace(tokens=48, experts=experts, top_k=k, seed=seed))
        for seed, (name, experts, k) in enumerate([("A", 8, 2), ("B", 8, 2), ("C", 31, 7)])
    }
    check_golden(chart, chart.draw(chart.measure(three)).to_dict(), request)


def test_the_effect_of_a_change_is_drawn_token_by_token(trace, request):
    ones = np.ones(len(trace.tokens))
    effect = trace.tokens[["sequence", "position", "text"]].assign(
        loss=ones, loss_changed=2 * ones, kl=ones / 4, next_token=1, next_token_changed=np.arange(len(ones)) % 2
    )
    chart = EFFECT.draw(EFFECT.measure(effect))
    assert "text" not in chart.data and len(chart.data) == len(ones)
    check_golden(EFFECT, chart.to_dict(), request)


def test_the_parts_of_a_choice_are_bars_and_those_of_other_choices_dots(request):
    parts = pd.DataFrame(
        {
            "layer": 2,
            "part": ["embedding", "embedding", "experts", "experts"],
            "part_layer": [-1, -1, 0, 0],
            "expert": [1, 4] * 2,
            "slot": [0, 1] * 2,
            "logit": [1.0, 2.0, 3.0, -1.0],
            "above_mean": [0.5, 1.5, 3.0, -1.0],
        }
    )
    drawn = DIRECT.draw(DIRECT.measure(parts, 2)).to_dict()
    check_golden(DIRECT, drawn, request)
    assert drawn["layer"][0]["encoding"]["y"]["sort"] == ["embedding", "experts of layer 0"]
    alone = DIRECT.draw(DIRECT.measure(parts[parts["slot"] == 0], 2)).to_dict()
    assert len(alone["layer"]) == len(drawn["layer"]) - 1


def test_where_the_size_of_an_expert_is_known_an_axis_is_in_bytes_and_the_chosen_size_is_marked(trace):
    plain = hit_rate_curve(hit_rates(trace)).to_dict()
    frame = hit_rates(trace, expert_bytes=50e6, capacity=3)
    sized = hit_rate_curve(frame).to_dict()
    assert "independent" not in json.dumps(plain) and len(plain["layer"]) == 1
    assert sized["resolve"] == {"scale": {"y": "independent"}}
    lines, rule = sized["layer"][0]["layer"]
    assert (lines["mark"]["type"], rule["mark"]["type"]) == ("line", "rule")
    assert [row["capacity"] for row in sized["datasets"][rule["data"]["name"]]] == [3]
    most = sized["layer"][1]["encoding"]["y"]["scale"]["domain"]
    assert most == [pytest.approx(4 * 2 * 50), 0], "MB with no hit at all: 4 layers, 2 experts each"


def test_counts_alone_are_drawn_as_far_as_they_need_no_order(trace):
    counts = trace.counts()
    lines = hit_rate_curve(hit_rates(counts)).to_dict()
    assert set(hit_rates(counts)["policy"]) == {"chance", "static"} and lines
    assert BATCH.draw(batch_coverage(counts)).data["kind"].unique().tolist() == ["even", "random"]
    with pytest.raises(MissingField, match="counts"):
        PLANE.draw(serving_placement(counts, 2, 2))


@cache
def large_trace(experts: int) -> RoutingTrace:
    return sized(sample_trace(layers=60, tokens=256, top_k=8, experts=experts))


# Tables grow with the experts, all but flows: of more than 64 experts only the strongest are drawn.
@pytest.mark.parametrize(
    ("topic", "experts"), [("Flow", 64), *((topic, 512) for topic in TOPICS if topic != "Specialization")]
)
def test_no_picture_of_a_large_model_is_more_than_a_browser_takes_in_one_message(topic, experts):
    """60 layers, 256 tokens: the tables of each chart as Streamlit sends them, in all under a megabyte."""
    trace = large_trace(experts)
    for chart in TOPICS[topic]:
        drawn = chart.draw(chart.measure(fitted(trace, chart)))
        assert sum(arrow_bytes(frame) for frame in tables(drawn)) < 1_000_000, chart.key


def test_the_picture_of_balance_of_a_large_model_is_no_larger_message():
    drawn = BALANCE.draw(BALANCE.measure(large_trace(512)))
    assert sum(arrow_bytes(frame) for frame in tables(drawn)) < 1_000_000


def arrow_bytes(frame: pd.DataFrame) -> int:
    table, sink = pa.Table.from_pandas(frame, preserve_index=False), pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().size


@every_chart
def test_a_legend_that_is_a_gradient_is_drawn_on_a_canvas(chart):
    """In SVG it may stay empty: Vega gives gradients of two pictures on a page the same name."""
    spec = sample_spec(chart)
    gradients = [encoding for encoding in encodings(spec) if encoding.get("color", {}).get("type") == "quantitative"]
    assert not gradients or spec["usermeta"]["embedOptions"]["renderer"] == "canvas"
