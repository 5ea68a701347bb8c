"""One page, from its menu to its address: what Streamlit runs anew whenever a visitor does something."""

from dataclasses import replace

import streamlit as st
from moeviz_app.jobs import model_catalog, model_service, recorded
from moeviz_app.jobs.run_request import RunRequest, number_in, run_from_query
from moeviz_app.server.logs import log_moment
from moeviz_app.session import datasets, opened, recent, session, training_runs
from moeviz_app.session.visit import visit
from moeviz_app.url import navigation
from moeviz_app.url.fields import PAGE_ADDRESSES
from moeviz_app.url.navigation import LINKS
from moeviz_app.views.explore import run_on_screen
from moeviz_app.views.menu import EXPERT, FIRST, draw_menu, draw_tabs, menu
from moeviz_app.widgets import pickers
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.near import begin_page
from moeviz_app.widgets.run_options import fill_in
from moeviz_app.widgets.run_panel import record

from moeviz.expert_counts import ExpertCounts
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted

STYLE = """<style>
[data-testid='stHeader'] {height: 2.6rem; background: transparent; pointer-events: none} /* the menu below is the bar */
[data-testid='stHeader'] button {pointer-events: auto}
[data-testid='stMainBlockContainer'] {padding: 0.5rem clamp(0.9rem, 3vw, 2.5rem) 3rem}
[data-testid='stMainBlockContainer'] > [data-testid='stVerticalBlock'] {gap: 0.6rem}
[class*='st-key-refused-'] {border-color: #c0362c; background: color-mix(in srgb, #c0362c 9%, transparent)}
.st-key-tagline button, .st-key-menu a {min-height: 2rem; padding-block: 0}
.st-key-reading-again {position: fixed; z-index: 9; bottom: 1rem; left: 50%; width: min(26rem, 92vw);
  padding: .7rem 1rem; transform: translateX(-50%); border-radius: .5rem; box-shadow: 0 4px 18px #0005;
  background: var(--st-background-color, Canvas)}
.st-key-tagline em {font-style: normal; opacity: .8}
[class*='st-key-place-of-'] [data-testid='stVegaLiteChart'] {min-height: var(--picture, 0)} /* while Vega draws */
.st-key-has-run {position: absolute; width: 0 !important; pointer-events: none}
@media (max-width: 640px) {
  .st-key-tagline em {display: none}
  .st-key-tagline {gap: .4rem !important}
  .st-key-tagline > div:first-child {flex-basis: 100%}
  .st-key-tagline > :not(:first-child) p {font-size: .85rem}
  [class*='st-key-alarm-'] > :nth-child(2) {flex-basis: calc(100% - 3rem)} /* the button stands below */
  [class*='st-key-alarm-'] > :nth-child(3) {margin-left: 2rem}
}
[data-testid='stSliderThumbValue'] {color: inherit} /* the accent is too pale for small type on a dark page */
[data-testid='stButtonGroup'] button:is([aria-checked='true'], :hover), [data-testid='stButtonGroup'] button * {
  color: inherit !important;
}
.katex-display, .katex-display > .katex {overflow: visible !important} /* else a box to scroll in that no key reaches */
@media (max-width: 640px) {.katex-display > .katex {font-size: 0.95em}}
@media (prefers-reduced-motion: reduce) {
  *, *::before, *::after {animation-duration: 1ms !important; transition-duration: 1ms !important}
}
@media print { /* the page, and nothing to press */
  [data-testid='stHeader'], .st-key-head, .st-key-submenu, .st-key-tagline button, [data-testid='stToolbar'],
  [data-testid='stMain'] :is(button, summary, [role='button'], .stFileUploader, .stPageLink) {display: none !important}
  [data-testid='stMain'], [data-testid='stAppViewContainer'] {overflow: visible !important; height: auto !important}
}
</style>"""


def draw() -> None:
    """Lay out the page that the browser asks for, and keep the address true."""
    log_moment("script begins")
    page = st.navigation(menu(), position="hidden")
    st.set_page_config(page_title=f"{page.title} · moeviz", page_icon="🧭", layout="wide")
    st.html(STYLE)
    draw_menu(page.title)
    begin_page(page.url_path)
    session.keep_held()
    with explained():
        if (begins := open_startup_files()) and page.title == FIRST:
            st.switch_page(session.page(begins))
    notice = visit().notice = st.empty()
    follow(page.url_path)
    if session.waiting() is not None:
        with notice.container():
            say(session.waiting())
    page.run()
    if session.waiting() is None:  # the page ran it
        notice.empty()
    visit().notice = None
    if page.title == FIRST:
        draw_tabs(FIRST)
    else:
        visit().explorer = None  # the next explorer is a new one, which has been told nothing
    if page.url_path == EXPERT:
        navigation.stay(page.url_path)
    elif page.title not in (FIRST, "Experts"):  # which write it at every choice
        navigation.write(page.url_path)
    log_moment("script ends")


def follow(page: str) -> None:
    """Show what the address of this page asks for, where the browser asks anew: at a visit, and after going back."""
    asked = st.query_params.to_dict()
    if not navigation.asks(page, asked):
        return
    with explained():
        asked = LINKS.shown(asked)
    if "prompt" in asked:
        session.set_value(session.DATASET, None)
        with explained():
            wanted, place = run_from_query(asked), (number_in(asked.get("layer")), number_in(asked.get("token")))
            run = replace(wanted, mute=())  # the plain run stands beside the one without some experts
            visit().muted = (wanted, visit().muted[1] if visit().muted else 0)
            if run_on_screen() != run:  # else what is being typed would be lost
                _show(run, *place)
                fill_in(run)
            session.point_at(*place)
    if page in PAGE_ADDRESSES:
        with explained():
            PAGE_ADDRESSES[page].fill_in(asked)


def _show(run: RunRequest, layer: int | None, token: int | None) -> None:
    """Show the trace of a run that a link asks for, or let the run wait until somebody presses Run.

    Raises `ModelNotFound` if the model is not on offer, and what `record` raises.
    """
    model_catalog.check_on_offer(run.model)
    if (known := recent.trace_of(run)) is not None:
        session.set_trace(known, run)
        return
    model_catalog.check_in_link(run.model)
    if model_service.at_hand(run.model, run.how) and not run.new_tokens:
        record(run)
    else:
        what = "a model on a server" if model_catalog.answers_at_once(run.model) else "a model that is not loaded"
        what = f"up to {run.new_tokens} tokens to generate" if run.new_tokens else what
        session.wait(
            f"This link brings a prompt for {quoted(run.model)}, with {what}. Links do not start such runs by "
            "themselves: to start it, press Run on the Explore page.",
            run,
            layer,
            token,
        )


def open_startup_files() -> str | None:
    """Open these files, the first of them on screen; the page to begin on, where there is no trace among them.

    Raises what `recorded.opened_files` raises, once.
    """
    if visit().has_begun:
        return None
    visit().has_begun = True  # also where it raises: it is told once
    files = [(name, opened.noted(file).counted) for name, file in recorded.opened_files()]
    traces = [file for _, file in files if isinstance(file, RoutingTrace)]
    for name, found in reversed(files):
        if isinstance(found, ExpertCounts):
            opened.remember(found)
        else:
            session.set_trace(found, title=name)
    if len(traces) > 1:
        pickers.choose(traces[0], traces[1])
    of_corpora = datasets.listed()
    if of_corpora and not traces:
        session.set_value(session.DATASET, next(iter(of_corpora)))
    if traces:
        return None
    return "Training" if training_runs.started() else "Corpus" if of_corpora else "Balance" if files else None
