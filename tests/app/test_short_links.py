"""Addresses that hold a key in place of the prompt."""

from dataclasses import replace

import pytest
from app_pages import COMPARE, WHAT_IF, address, pair, run, sentences, visit, visit_of

from moeviz.errors import MoevizError
from moeviz_app import settings
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.url import navigation
from moeviz_app.url.navigation import SECONDS, ShortLinks

FRENCH, ENGLISH = RunRequest("Il fait froid.", "embedded"), RunRequest("One day", "embedded")
ASKED = FRENCH.parameters() | {"layer": "2"}


@pytest.fixture
def links(monkeypatch):
    monkeypatch.setattr(settings, "SETTINGS", replace(settings.SETTINGS, prompts_in_links=False))
    return navigation.LINKS


def test_a_key_stands_for_the_whole_address_and_is_the_same_for_the_same():
    links = ShortLinks()
    hidden = links.hidden(ASKED)
    assert hidden.keys() == {"key"} and len(hidden["key"]) >= 22
    assert links.shown(hidden) == ASKED and links.hidden(dict(reversed(ASKED.items()))) == hidden
    assert links.hidden(ASKED | {"layer": "3"}) != hidden
    assert ShortLinks().hidden(ASKED) != hidden


def test_what_nobody_typed_stays_as_it_is():
    links = ShortLinks()
    for query in ({}, {"layer": "2", "expert": "7"}):
        assert links.hidden(query) == links.shown(query) == query


def test_keys_last_a_day_from_when_they_were_written_last():
    now = [0.0]
    links = ShortLinks(lambda: now[0])
    first, second = links.hidden(ASKED), links.hidden(ENGLISH.parameters())
    now[0] = SECONDS / 2
    links.hidden(ASKED)
    now[0] = SECONDS + 1
    assert links.shown(first) == ASKED
    with pytest.raises(MoevizError, match="does not know"):
        links.shown(second)


def test_the_oldest_go_where_there_is_too_much(monkeypatch):
    monkeypatch.setattr(navigation, "MOST_CHARS", 1000)
    links = ShortLinks()
    keys = [links.hidden({"prompt": str(number) * 100}) for number in range(10)] + [links.hidden({"prompt": "z"})]
    with pytest.raises(MoevizError):
        links.shown(keys[0])
    assert links.shown(keys[-1]) == {"prompt": "z"}
    links.hidden(ASKED)
    assert links._chars <= 1000 + 200 and len(links._keys) == len(links._queries)


@pytest.mark.usefixtures("box_of_widgets")
def test_the_address_of_a_run_holds_a_key_that_brings_another_visitor_the_same(links):
    app = run(visit(""), FRENCH.prompt)
    assert visit_of(app).address.keys() == {"key"}
    other = visit("load", **address(app))
    assert visit_of(other).trace.tokens["text"].tolist() == visit_of(app).trace.tokens["text"].tolist()
    assert address(other).keys() == {"key"}


@pytest.mark.usefixtures("box_of_widgets")
@pytest.mark.parametrize(
    ("page", "query"),
    [
        (WHAT_IF, FRENCH.parameters() | {"change": "experts-per-token", "experts_per_token": "1"}),
        (COMPARE, pair(FRENCH, ENGLISH)),
        ("expert", FRENCH.parameters() | {"layer": "2", "expert": "7"}),
    ],
    ids=["what if", "compare", "expert"],
)
def test_no_page_writes_what_was_typed_into_its_address(links, page, query):
    app = visit(page, **query)
    assert FRENCH.prompt not in str(address(app)) and "One day" not in str(address(app))
    assert links.shown(address(app)).items() >= query.items()


@pytest.mark.usefixtures("box_of_widgets")
def test_a_key_that_nobody_gave_is_told_and_brings_nothing(links):
    app = visit("", key="AAAAAAAAAAAAAAAAAAAAAA")
    assert "This address holds a key that this server does not know" in sentences(app)
    assert visit_of(app).trace is None
