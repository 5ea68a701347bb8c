"""Links that an earlier moeviz made, before its rooms were drawn anew, open the same pictures.

`data/links.json` was written by that version: the page, its query, its title, and for each chart a digest of what its
data says in whole numbers and words (experts, layers, tokens), with the number of rows; the same of map and strip.
Fractions are left out: their last digits are those of a processor. "parts" say where the pictures of a page stand now:
widgets, and what they are set to.
"""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from app_pages import visit
from streamlit.testing.v1 import AppTest

from moeviz_app.views.menu import MENU, OLD_ADDRESSES, PAGES, _path

SHOWN = ("experts", "texts", "at", "tokens", "selected")  # of the two
LINKS = json.loads((Path(__file__).parents[1] / "data" / "links.json").read_text("utf-8"))
# The menu before there were places: the paths of its 34 pages, with their titles.
BEFORE = {"": "Explore"} | {
    name.lower().replace(" ", "-"): name
    for name in (
        *("Tokens", "Load", "Specialization", "Locality", "Co-activation", "Confidence", "Losses", "Layers", "Flow"),
        *("Coverage", "Counts", "Serve", "Parameters", "Placement", "Compare", "Engine difference", "What if"),
        *("Training", "From 1991 to Mixtral", "Timeline", "Article", "Local experts", "Hierarchical mixture"),
        *("HMM experts", "SVM experts", "Deep mixture", "Conditional computation", "Sparsely gated", "Switch"),
        *("Mixtral", "Dense contrast", "Traces", "Corpus"),
    )
}
MERGED = {"Layers": ("Flow", "Layers"), "Load": ("Load", "Coverage")}  # pages of two that were apart
WITH_MORE = {*MERGED, "Compare"}  # pages that draw what they drew, and more


def drawn(chart) -> list:
    """The digest of a chart's data, and the rows of each of its tables."""
    tables = [table.data.data for table in chart.datasets] + ([chart.data.data] if chart.data.data else [])
    frames = [pa.ipc.open_stream(table).read_all().to_pandas() for table in tables]
    frames = [frame for frame in frames if {*frame} != {"start", "end", "line"}]  # under a map, where tokens were
    words = [
        [[str(name), *map(str, frame[name].tolist())] for name in sorted(whole(frame), key=str)] for frame in frames
    ]
    return [digest(words), *map(len, frames)]


def whole(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if not pd.api.types.is_float_dtype(frame[name])]


def mapped(app: AppTest) -> list[str]:
    """The digest of what the map of the first page, or the strip of tokens, shows: experts, words, the chosen place."""
    told = [json.loads(node.proto.json) for node in app.get("bidi_component")]
    return [digest({key: data.get(key) for key in SHOWN}) for data in told if data and set(SHOWN) & set(data)]


def digest(of: object) -> str:
    return hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:12]


def pictures_of(app: AppTest, parts: list | None) -> list:
    """What is drawn; of a page that has an answer with a picture first, what its parts have under it."""
    if parts is None:
        return [drawn(chart.proto) for chart in app.get("vega_lite_chart")]
    found = []
    for key, part in parts:
        app.session_state[key] = part
        found += [drawn(chart.proto) for chart in app.run().get("vega_lite_chart")[1:]]
    return found


@pytest.mark.parametrize("link", LINKS, ids=lambda link: f"{link['page'] or 'explore'} {len(link['query'])}")
def test_a_link_of_before_opens_the_same_pictures(link):
    app = visit(link["page"], **link["query"])
    page = OLD_ADDRESSES.get(link["page"], link["title"])
    assert ([title.value for title in app.title] or [""])[0] == (page if link["title"] else "")
    now = pictures_of(app, link.get("parts"))
    assert [chart for chart in now if chart in link["charts"] or page not in WITH_MORE] == link["charts"]
    assert [shown for shown in mapped(app) if shown in link["maps"] or page not in WITH_MORE] == link["maps"]


def test_each_of_the_34_pages_of_before_is_a_tab_or_its_address_leads_to_the_one_that_draws_it():
    tabs = [name for names in MENU.values() for name in names]
    assert len(BEFORE) == 34 and len(tabs) == len(set(tabs))
    for path, name in BEFORE.items():
        page = OLD_ADDRESSES.get(path, name)
        assert page in tabs and page in PAGES
        assert page == name or name in MERGED.get(page, ("Counts",))
    assert OLD_ADDRESSES["counts"] == "Balance"
    own = {_path(name) for name in PAGES}
    assert all(place.lower() in own | OLD_ADDRESSES.keys() for place in MENU), "whoever types a place's name finds it"
    for page, topics in MERGED.items():
        assert PAGES[page].args == (page, *topics)


def test_another_prompt_is_another_picture():
    """The control: a digest tells two prompts from each other."""
    first, other = (visit("load", prompt=prompt).get("vega_lite_chart")[0].proto for prompt in ("Il fait.", "Once"))
    assert drawn(first) != drawn(other)
