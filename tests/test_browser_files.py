"""Files in a real browser: what a tab that is closed keeps, and what is there again after the server is killed."""

import pytest
from browser import SIZES, served
from playwright.sync_api import expect

from moeviz.formats.exports import write_trace
from moeviz.formats.kept_traces import kept_traces
from moeviz.testing import sample_trace

pytestmark = pytest.mark.browser
NOTHING_KEPT = "async () => (await (await fetch('/metrics')).text()).includes('\\nmoeviz_trace_bytes 0\\n')"


def test_a_tab_that_is_closed_keeps_no_trace_though_no_other_comes_or_goes(browser, tmp_path):
    write_trace(sample_trace(tokens=3000), tmp_path / "mine.npz")
    with served(MOEVIZ_SECONDS_IDLE="1") as running, browser.new_context(**SIZES["desktop"]) as context:
        watching, page = context.new_page(), context.new_page()
        watching.goto(f"{running.url}/metrics")  # no tab of Streamlit's
        page.goto(f"{running.url}/traces")
        page.locator("input[type=file]").set_input_files(tmp_path / "mine.npz")
        expect(page.get_by_text("3,000 tokens through sample")).to_be_visible()
        assert not watching.evaluate(NOTHING_KEPT)
        page.close()
        watching.wait_for_function(NOTHING_KEPT, polling=500)


def test_a_trace_is_there_again_after_the_server_was_killed(browser, tmp_path):
    write_trace(sample_trace(tokens=30), tmp_path / "mine.npz")
    home = {"MOEVIZ_HOME": str(tmp_path / "home"), "MOEVIZ_KEEP_TRACES": "1"}
    with served(**home) as running, browser.new_context(**SIZES["desktop"]) as context:
        page = context.new_page()
        page.goto(f"{running.url}/traces")
        page.locator("input[type=file]").set_input_files(tmp_path / "mine.npz")
        expect(page.get_by_text("30 tokens through sample")).to_be_visible()
        while not kept_traces(tmp_path / "home" / "traces"):
            page.wait_for_timeout(100)  # milliseconds
        running.process.kill()
    with served(**home) as running, browser.new_context(**SIZES["desktop"]) as context:
        page = context.new_page()
        page.goto(f"{running.url}/traces")
        page.get_by_role("combobox").click()
        page.get_by_role("option").click()
        expect(page.get_by_text("30 tokens through sample")).to_be_visible()
