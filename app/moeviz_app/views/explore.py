"""The first page: what to run, in one block; under it the answer, whole on the first screen."""

from dataclasses import replace
from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from moeviz.charts import NAMED
from moeviz.embedded import EMBEDDED
from moeviz.embedded.own_models import OWN_MODELS
from moeviz.metrics.findings import Finding, findings
from moeviz.metrics.tokens import SPECIAL_TOKEN, written_text
from moeviz.metrics.words import item_word
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service, recorded
from moeviz_app.jobs.recorded import EXAMPLES, MIXED, TELLING, cached_for_example, names_of
from moeviz_app.jobs.run_request import RunRequest
from moeviz_app.session import recent, session
from moeviz_app.session.visit import visit
from moeviz_app.url import navigation
from moeviz_app.url.navigation import expert_query, for_the_address
from moeviz_app.views.images import choose_images, show_images
from moeviz_app.views.read_again import (
    decided_here,
    is_direct,
    muted_here,
    offer_occlusion,
    show_direct,
    wanted_of,
)
from moeviz_app.views.routes import show_alike, show_routes
from moeviz_app.widgets.chart_panel import show
from moeviz_app.widgets.components.ask import PromptInput, ask
from moeviz_app.widgets.components.explorer import Place, explorer, told
from moeviz_app.widgets.components.texts import has_run, written
from moeviz_app.widgets.expert_links import open_expert
from moeviz_app.widgets.facts import trace_facts
from moeviz_app.widgets.files import downloads
from moeviz_app.widgets.messages import explained, refuse, say
from moeviz_app.widgets.near import fill_first_screen, when_near
from moeviz_app.widgets.pickers import choose_stretch, choose_text
from moeviz_app.widgets.run_options import choose_model, choose_options
from moeviz_app.widgets.run_panel import record

OVERVIEW = (NAMED["load_heatmap"], NAMED["balance_by_layer"], NAMED["active_by_convention"])
MOST_ASSIGNMENTS = 300_000  # of tokens to experts that one message brings to a browser: 2.4 MB of them
EXPLORER = "explorer"  # its key
MOST_SPECIAL = 64  # tokens in a row that are looked at
EXAMPLE_RUN = RunRequest(EXAMPLES[MIXED], EMBEDDED)
BUTTONS = 40  # pixels of a row of them
TITLE = "<h1>See which experts fire, token by token</h1>"
NO_NEXT = "The next tokens are not in this file. Run the text here, and they are."


def explore_page() -> None:
    """Draw the prompt box; then the tokens, every layer, and one layer."""
    tagline = st.container(horizontal=True, vertical_alignment="center", gap="small", key="tagline")
    trouble = st.container()  # as wide as the page
    with tagline:
        st.html(TITLE, width="content")
        name, options, info = _model_and_options(trouble)
    chats = model_service.chats(name, session.how())
    asked = _box(chats)
    options = replace(options, images=choose_images(name, info is not None))
    happening, answer = st.empty(), st.empty()  # two: what one container held stays, greyed, while it is refilled
    if asked.run is not None and (info is not None or visit().why_waiting is not None):
        answer.empty()
        visit().why_refused = None
        if visit().notice is not None:
            visit().notice.empty()  # it asks for Run, which was pressed
        with happening.container(), explained(partial(setattr, visit(), "why_refused")):
            record(_with_text(options, **asked.run))
        if visit().why_refused is None:
            if model_service.chats(name, session.how()) != chats:
                st.rerun()  # the box can send a turn of a chat now
            visit().box_of = session.shown_trace()
            with happening:
                has_run(asked.text, asked.runs)
    if (why := visit().why_refused) is not None:
        with happening.container():
            refuse(why)
    with answer.container():
        _answer(options)
    model_service.warm_up()


def _model_and_options(trouble: DeltaGenerator) -> tuple[str, RunRequest, ModelInfo | None]:
    """Return the chosen model, how it runs, and what is known of it beforehand; `trouble` shows why nothing is."""
    with st.popover("Model and options", icon=":material/tune:", width="content"):
        name = choose_model()
        if name in OWN_MODELS:
            st.text(OWN_MODELS[name].trained_for)
        about = st.container()
        info = None
        if visit().why_waiting is None:  # a link fetches nothing
            with trouble, explained(refuse):
                info = model_catalog.facts_at_hand(name)
        with about:
            options = choose_options(name, info)
    return name, options, info


def _box(chats: bool) -> PromptInput:
    """Return the prompt, at first that of the trace on screen; what it holds is kept for other pages and for links."""
    ran, trace = run_on_screen(), session.shown_trace()
    if (before := visit().box_of) is not trace:
        fill_in = session.start_with if before is None else session.set_value  # at first, what a link brings stays
        fill_in(session.PROMPT, _text_of(trace) if ran is None else ran.prompt)
        visit().box_of = trace
    session.start_with(session.PROMPT, "")
    asked = ask(
        session.value(session.PROMPT),
        EXAMPLES,
        settings.SETTINGS.max_prompt_chars,
        ran=None if ran is None else ran.prompt,
        can_stop=True,
        chat=chats,
        key=session.BOX,
    )
    session.set_value(session.PROMPT, asked.text)
    return asked


def _text_of(trace: RoutingTrace) -> str:
    """Return the prompt of a trace that came in a file, if it is one text that may be run here."""
    most = settings.SETTINGS.max_prompt_chars
    if item_word(trace.model) != "token" or trace.tokens["sequence"].nunique() != 1 or len(trace.tokens) > most:
        return ""
    text = written_text(trace, "prompt")
    return text if len(text) <= most else ""


def run_on_screen() -> RunRequest | None:
    """Return the run that made the trace on screen, the example's too; None for one that came in a file."""
    return EXAMPLE_RUN if session.is_example() else recent.run_of(session.shown_trace())


def _answer(options: RunRequest) -> None:
    choose_text()
    trace = session.shown_trace()
    if trace.tokens.empty:
        say("This trace contains no tokens, so there is nothing to draw. Run a prompt, or open another file.")
        navigation.write(navigation.FIRST_PATH)
        return
    written(trace, key="written")
    with explained():
        _linked(trace, _is_stale(options))
    if (run := run_on_screen()) is not None and not run.fits_an_address:
        why = "Images are in no address" if run.images else "This text is too long for an address"
        say(f"{why}, so a link does not bring it back. To keep it, download the trace.")
    trace_facts(trace)
    fill_first_screen()
    for chart in OVERVIEW:
        show(chart, trace)
    st.subheader("Download this trace", anchor=False)
    when_near("downloads", partial(downloads, trace), height=BUTTONS)


def _with_text(options: RunRequest, text: str, chat: bool = False, system: str | None = None) -> RunRequest:
    """Return the run of what the prompt box says."""
    return replace(options, prompt=text, chat=chat, system=system or None)


def _is_stale(options: RunRequest) -> bool:
    """Return whether model or options differ from those of the run on screen. The box itself reports its text."""
    ran = run_on_screen()
    return ran is not None and _with_text(options, ran.prompt, ran.chat, ran.system) != ran


@st.fragment
def _linked(trace: RoutingTrace, stale: bool) -> None:
    """The explorer. A fragment: a choice in it writes the address, and nothing of the page is drawn anew."""
    found = _found(trace)
    if not visit().is_placed:
        first = (found[0].layer, found[0].token) if found else (session.middle_layer(trace), 0)
        first = first[0], _of_the_text(trace, first[1])
        session.point_at(*(TELLING if session.is_example() else first))
    rows = _rows(trace)
    whole = len(rows) == len(trace.tokens)
    part = trace if whole else trace.select(tokens=slice(rows.start, rows.stop))
    seen = [replace(finding, token=finding.token - rows.start) for finding in found if finding.token in rows]
    run = run_on_screen() if whole and not trace.images else None  # no pixels are kept to read it again with
    if run is not None and model_catalog.why_only_read(run.model) is not None:
        run = None
    trouble: list[str] = []
    muted = None if run is None else muted_here(trace, run, trouble.append)
    decided, can_decide = (None, False) if run is None else decided_here(trace, run)
    chosen = explorer(
        part,
        _given(trace, rows),
        seen,
        template=[token - rows.start for token in _of_template(trace) if token in rows],
        stale=stale,
        names=names_of(trace.model, recent.traces().values()),
        muted=muted,
        why_no_next=NO_NEXT if run is None else "",
        decided=decided,
        can_decide=can_decide,
        direct=None if run is None else is_direct(trace),
        key=EXPLORER,
        link=lambda _, *where: for_the_address(expert_query(*where)),
        on_choice=partial(_choose, trace, part, rows),
    )
    navigation.write(navigation.FIRST_PATH, _to_link(run))
    for why in trouble:
        refuse(why)
    if run is not None:
        offer_occlusion(trace, run, can_decide and chosen.decide)
        show_direct(trace, run)
        show_routes(trace)
    show_alike(trace)
    show_images(trace)
    if chosen.opened is not None:
        open_expert(expert_query(*chosen.opened))


def _of_the_text(trace: RoutingTrace, token: int) -> int:
    """Return this token, or the next one after it that is text and not special as `<s>` is, if there is one."""
    rest = trace.tokens.iloc[token:]
    texts = (rest if "kind" not in rest else rest[rest["kind"] == "text"])["text"].iloc[:MOST_SPECIAL]
    return next((int(row) for row, text in texts.items() if not SPECIAL_TOKEN.fullmatch(text)), token)


def _to_link(run: RunRequest | None) -> RunRequest | None:
    """The run that a link repeats, with its mutes; of the example only once somebody has done something with it."""
    if run is not None and (wanted := wanted_of(run)).mute:
        return wanted
    shown = visit().explorer
    return run if session.is_example() and shown is not None and shown[2] != shown[3] else None


def _given(trace: RoutingTrace, rows: range) -> Place:
    """Return the place to show: the one that was given before, if the browser reported it, or all is sent again."""
    (layer,), token = session.chosen_layers("one"), session.selected_token()
    here = (layer, token - rows.start if token in rows else 0)
    before = visit().explorer
    if before is None or before[0] is not trace or before[1:3] != (rows, here):
        before = visit().explorer = (trace, rows, here, here)
    return before[3]


def _choose(trace: RoutingTrace, part: RoutingTrace, rows: range) -> None:
    """Callback of the explorer."""
    heard = told(part, session.value(EXPLORER))
    if heard.mutes is not None and (run := run_on_screen()) is not None:
        visit().muted = (replace(run, mute=heard.mutes), heard.asked)
    if heard.direct is not None:
        token, is_asked = heard.direct
        visit().direct = (trace, token + rows.start) if is_asked else None
    if (place := heard.at) is not None:
        session.choose(place[0], place[1] + rows.start)
        if (before := visit().explorer) is not None and before[0] is trace and before[1] == rows:
            visit().explorer = (trace, rows, place, before[3])


def _rows(trace: RoutingTrace) -> range:
    """Return the tokens that go to the browser: all, or a stretch of a trace that is too large for it."""
    if trace.experts.size <= MOST_ASSIGNMENTS:
        return range(len(trace.tokens))
    choose_stretch(trace)
    return session.window()


def _of_template(trace: RoutingTrace) -> list[int]:
    """Return the tokens that a chat template added."""
    segments = trace.tokens.get("segment")
    return [] if segments is None else [row for row, name in enumerate(segments) if name == "turn"]


def _found(trace: RoutingTrace) -> list[Finding]:
    """Return findings of a trace, counted once; against other texts, for the model whose texts ship."""
    before = visit().findings
    if before is None or before[0] is not trace:
        found = cached_for_example(trace, "findings", lambda: findings(trace, recorded.usual(trace.model)))
        before = visit().findings = (trace, found)
    return before[1]
