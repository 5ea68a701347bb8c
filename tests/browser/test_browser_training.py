"""The page Training in a real Chromium: a stranger's run that grows, and the pair that ships."""

import json

import pytest
from browser import TO_THE_NEXT, all_drawn, eventually, is_below
from browser_pages import check
from made_runs import HOSTILE, layer, run_file
from playwright.sync_api import expect

from moeviz.training.reading import example_runs
from moeviz.training.recorded.claims import router_verdict

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("size", ["phone"])
def test_the_pair_that_ships_is_drawn_and_has_no_grave_fault(visit, size):
    page = visit("/train", size=size)
    expect(page.get_by_text(router_verdict(example_runs()["aux-off"]).answer)).to_be_in_viewport()
    expect(page.get_by_text(router_verdict(example_runs()["aux-on"]).answer)).to_be_visible()
    all_drawn(page)
    expect(page.get_by_test_id("stVegaLiteChart")).to_have_count(4)
    check(page)
    page.get_by_text("5 alarms, and what to do").click()
    if size == "phone":  # the button of an alarm stands below its words, and leaves them their width
        alarm = page.locator("[class*=st-key-alarm-]").first
        words, button = alarm.get_by_text("experts 0"), alarm.get_by_role("button")
        eventually(page, lambda: is_below(button, words) and words.bounding_box()["width"] > 250)
    charts = page.get_by_test_id("stVegaLiteChart")
    for part, pictures in {"Experts": 5, "Balance": 6, "Losses": 8, "Probe set": 7}.items():
        page.get_by_role("radio", name=part).click()
        # Not once it is at rest: on a busy machine the part before is still there, drawn and at rest.
        eventually(page, lambda: page.evaluate(TO_THE_NEXT) and charts.count(), pictures)
        check(page)


def test_a_run_opens_on_its_page_and_is_drawn_anew_when_it_grows(visit, serve, tmp_path):
    folder = run_file(tmp_path / "![x](http:a) <b>run", 2, b'{"step": 3, "tok')
    page = visit("/train", at=serve(MOEVIZ_OPEN=str(folder), MOEVIZ_SERVE="private"))
    expect(page.get_by_role("heading", name="Train", exact=True)).to_be_visible()
    expect(page.get_by_text("2 logs up to step 2")).to_be_visible()
    run_file(folder, 3)
    event = {"kind": "load", "layer": 0, "on": True, "says": f"step 4: layer 0: {HOSTILE}"}
    line = {"step": 4, "tokens": 4, "layers": [layer(0, [9, 1])], "alarms": [event]}
    with (folder / "routing.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    expect(page.get_by_text("4 logs up to step 4")).to_be_visible()
    expect(page.locator(".st-key-answer")).to_contain_text(HOSTILE)
    check(page)
