"""One page, from its menu to its address: what Streamlit runs anew whenever a visitor does something."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import streamlit as st

from moeviz.expert_counts import ExpertCounts
from moeviz.routing_trace import RoutingTrace
from moeviz.text import quoted
from moeviz_app.jobs import model_catalog, model_service, recorded
from moeviz_app.jobs.run_request import RunRequest, number_in, run_from_query
from moeviz_app.session import datasets, opened, recent, session, training_runs
from moeviz_app.session.subject import DATASET as OF_DATASET
from moeviz_app.session.subject import MIXED, TRACE, choose, view
from moeviz_app.session.visit import Takes, visit
from moeviz_app.url import navigation
from moeviz_app.url.navigation import LINKS
from moeviz_app.views.explore import EXAMPLE_RUN
from moeviz_app.views.menu import EXPERT, FIRST, ROWS, draw_menu, draw_tabs, menu
from moeviz_app.widgets import pickers
from moeviz_app.widgets.messages import explained, say
from moeviz_app.widgets.near import begin_page
from moeviz_app.widgets.run_options import fill_in
from moeviz_app.widgets.run_panel import record
from moeviz_app.widgets.subject_bar import AGAIN, subject_bar

STYLE = f"<style>\n{Path(__file__).with_name('layout.css').read_text('utf-8')}</style>"


def draw() -> None:
    """Lay out the page that the browser asks for, and keep the address true."""
    page = st.navigation(menu(), position="hidden")
    st.set_page_config(page_title=f"{page.title} · moeviz", page_icon="🧭", layout="wide")
    st.html(STYLE)
    row = ROWS.get(page.title)
    draw_menu(page.title)
    begin_page(page.url_path)
    session.keep_held()
    visit().takes, visit().page_address = (row and row.takes) or Takes(), row and row.address
    if page.url_path == EXPERT:
        visit().takes = replace(visit().takes, model=navigation.asked_query().get(navigation.OF))
    with explained():
        if (begins := open_startup_files()) and page.title == FIRST:
            st.switch_page(visit().pages[begins])
    notice = visit().notice = st.empty()
    follow(page.url_path)
    bar, before = st.empty() if row is not None and row.takes is not None else None, _subject()
    if bar is not None:
        with bar.container():
            subject_bar()
    with notice.container() if session.notices() else nullcontext():
        for sentence in session.notices():
            say(sentence)
    page.run()
    if not session.notices():  # the page ran something
        notice.empty()
    visit().notice = None
    if bar is not None and _subject() != before:  # the page ran something
        with bar.container():
            subject_bar(AGAIN)
    if page.title == FIRST:
        draw_tabs(FIRST)
    else:
        visit().explorer = None  # the next explorer is a new one, without a choice
    if page.url_path == EXPERT:
        navigation.stay(page.url_path)
    elif page.title not in (FIRST, "Experts"):  # which write it at every choice
        navigation.write(page.url_path)


def _subject() -> tuple[str | None, int]:
    return visit().subject, id(visit().trace)


def follow(page: str) -> None:
    """Show what the address of this page asks for, if the browser asks anew: at a visit, and after going back."""
    asked, now = st.query_params.to_dict(), visit()
    if navigation.asks(page, asked):
        now.not_followed = []
        _follow(asked, now.not_followed.append)
        now.not_followed_at = page, now.subject
    if now.not_followed_at == (page, now.subject):  # also when the page is drawn again
        for why in now.not_followed:
            say(why)


def _follow(asked: dict[str, str], keep: Callable[[str], None]) -> None:
    with explained(keep):
        asked = LINKS.shown(asked)
    with explained(keep):
        if "prompt" in asked:
            _follow_run(asked)
        elif (name := asked.get(navigation.DATASET)) is not None:
            datasets.named(name)
            choose(f"{OF_DATASET}{name}")
            if (layer := number_in(asked.get("layer"))) is not None:
                session.set_value(session.CORPUS_LAYER, layer)
        elif navigation.SUBJECT in asked:
            choose(asked[navigation.SUBJECT])
    if (address := visit().page_address) is not None:
        with explained(keep):
            address.fill_in(asked)


def _follow_run(asked: dict[str, str]) -> None:
    """Show the run that a link asks for, at its place. Raises what `_show` and `run_from_query` raise."""
    wanted, place = run_from_query(asked), (number_in(asked.get("layer")), number_in(asked.get("token")))
    run = replace(wanted, mute=())  # the plain run is shown next to the one without some experts
    visit().muted = (wanted, visit().muted[1] if visit().muted else 0)
    if run == EXAMPLE_RUN:
        if view().chosen.id != MIXED:
            choose(MIXED)
    elif recent.run_of(visit().trace) == run:  # else what is being typed would be lost
        choose(TRACE)
    else:
        _show(run, *place)
        fill_in(run)
    session.point_at(*place)


def _show(run: RunRequest, layer: int | None, token: int | None) -> None:
    """Show the trace of a run that a link asks for, or let it wait for Run.

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
    """Open these files, the first of them on screen; return the page to begin on if no trace is among them.

    Raises what `recorded.opened_files` raises, once.
    """
    if visit().has_begun:
        return None
    visit().has_begun = True  # also if it raises: it is reported once
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
        choose(f"{OF_DATASET}{next(iter(of_corpora))}")
    if traces:
        return None
    return "Train" if training_runs.started() else "Many texts" if of_corpora else "Balance" if files else None
