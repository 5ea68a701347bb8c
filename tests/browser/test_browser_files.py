"""Files in a real browser: what a tab that is closed keeps, and what is there again after the server is killed."""

from pathlib import Path

import pytest
from browser import eventually
from playwright.sync_api import Page, expect

from moeviz.formats.exports import write_trace
from moeviz.formats.kept_traces import kept_traces
from moeviz.testing import sample_trace

pytestmark = pytest.mark.browser
NOTHING_KEPT = "async () => (await (await fetch('/metrics')).text()).includes('\\nmoeviz_trace_bytes 0.0\\n')"


def open_file(page: Page, path: Path, says: str) -> None:
    page.locator("input[type=file]").set_input_files(path)
    expect(page.get_by_text(says)).to_be_visible()


def test_a_tab_that_is_closed_keeps_no_trace_though_no_other_comes_or_goes(visit, serve, tmp_path):
    write_trace(sample_trace(tokens=3000), tmp_path / "mine.npz")
    running = serve(MOEVIZ_SECONDS_IDLE="1")
    watching = visit("/metrics", at=running, ready=None)  # no tab of Streamlit's
    page = visit("/files", at=running, own=True)
    open_file(page, tmp_path / "mine.npz", "3,000 tokens through sample")
    assert not watching.evaluate(NOTHING_KEPT)
    page.close()
    watching.wait_for_function(NOTHING_KEPT, polling=500)


def test_a_trace_is_there_again_after_the_server_was_killed(visit, serve, tmp_path):
    write_trace(sample_trace(tokens=30), tmp_path / "mine.npz")
    home = {"MOEVIZ_HOME": str(tmp_path / "home"), "MOEVIZ_KEEP_TRACES": "1"}
    running = serve(**home)
    page = visit("/files", at=running)
    open_file(page, tmp_path / "mine.npz", "30 tokens through sample")
    eventually(page, lambda: kept_traces(tmp_path / "home" / "traces"))
    page.goto("about:blank")
    running.process.kill()
    page = visit("/files", at=serve(**home))
    page.get_by_role("combobox").click()
    page.get_by_role("option").click()
    expect(page.get_by_text("30 tokens through sample")).to_be_visible()
