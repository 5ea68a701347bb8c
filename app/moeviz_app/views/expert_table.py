"""The page Table, a tab of Experts: a row for each, and what they add against how often they are chosen."""

import pandas as pd
import streamlit as st

from moeviz.charts.contribution import CONTRIBUTION
from moeviz.corpus.analyses import DatasetStatistics
from moeviz.embedded.recorded_routing import ROUTING
from moeviz.errors import DamagedShard
from moeviz.metrics.contribution import missed_sentence
from moeviz.metrics.expert_names import sample_of_texts
from moeviz.metrics.expert_table import breadth, expert_table, expert_table_sentences, filled_columns, notes_on_experts
from moeviz.metrics.tokens import visible
from moeviz.metrics.words import in_words_of
from moeviz.routing_trace import RoutingTrace
from moeviz.spreadsheets import table_as_csv
from moeviz_app.jobs import model_catalog, model_service, recorded
from moeviz_app.session import recent, session
from moeviz_app.session.datasets import ShownDataset
from moeviz_app.session.subject import subject
from moeviz_app.views.expert_jobs import offer_reading
from moeviz_app.views.experts import say_sample, texts_on_screen
from moeviz_app.widgets.answers import Answers, damage, whole
from moeviz_app.widgets.chart_panel import MOST_ROWS, heading, picture_and_words, tag
from moeviz_app.widgets.expert_links import follow_click
from moeviz_app.widgets.messages import explained, note

PAGE = "Table"
MOST_SENTENCES = 5
READ = "Read these texts again, with what each expert adds"
WHY = (
    "The model reads them once more, and the norm of every expert's output is recorded. That takes up to half as long "
    "again as recording only the routing. The new trace joins your recent ones."
)
NOT_RECORDED = "What each expert adds is not recorded in this trace: its columns are left out."
COLUMNS = {  # of the table: the title of each, and what it means
    "layer": ("layer", "the model's own index"),
    "expert": ("expert", "expert 3 of one layer has nothing to do with expert 3 of another"),
    "name": ("name", "chosen on half of the texts, and held up on the other half"),
    "precision": ("precision", "of the tokens of its name, the share that it has, on texts that did not choose it"),
    "recall": ("recall", "of its tokens, the share that is of its name"),
    "f1": ("F1", "how well its name predicts its tokens: the harmonic mean of precision and recall"),
    "f1_token": ("by token", "F1 of the token by itself; a name that predicts less is decoration"),
    "f1_kind": ("by kind", "F1 of the kind of text by itself"),
    "f1_position": ("by position", "F1 of the position in the text by itself"),
    "share": ("share", "of all choices of its layer"),
    "mean_weight": ("weight", "mean weight of its output, when it is chosen"),
    "added": ("adds", "mean of gate × norm of its output (REAP): how far it moves the model, not whether it is needed"),
    "greatest": ("greatest", "its greatest activation"),
    "residual": ("to stream", "mean cosine of its output to the residual stream"),
    "kind": (
        "takes most of",
        "the kind of text of which it has the largest share, compared with its share of all others",
    ),
    "lift": ("lift", "that share over its share of all other tokens"),
    "spec": ("spec", "0: the same share of every kind; 1: only one kind"),
    "breadth": ("breadth", "narrow: few kinds of text; broad: more of them; or no kind of text"),
    "keeps": ("keeps", "tokens that go to it more than twice as often as others"),
    "writes": ("writes", "tokens that its output promotes, where they then follow"),
    "loss_change": ("loss without it", "the increase in loss of these texts if it is muted, in nats per token"),
    "says": ("odd", "dead, adds nothing, a duplicate of another, or a Super Expert"),
}


def expert_table_page() -> None:
    """Draw what stands out, the picture of what experts add, and the table."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="experts heading"):
        st.title(PAGE, anchor=False, width="content")
        tag()
    with explained():
        _draw()


def _draw() -> None:
    shown = session.dataset()
    trace = None if shown is not None else texts_on_screen()
    table = _of_dataset(shown) if shown is not None else None if trace is None else _of_texts(trace)
    if table is None:
        return
    part = trace if shown is None else shown.dataset
    model = part.model
    follow_click()
    table = table.assign(says=notes_on_experts(table))
    sentences = expert_table_sentences(table)
    with st.container(border=True, key="answer"):
        for sentence in sentences[:MOST_SENTENCES]:
            st.text(in_words_of(model, sentence))
        if len(sentences) > MOST_SENTENCES:
            st.text(f"{len(sentences) - MOST_SENTENCES:,} more stand in the last column of the table.")
    if table["added"].notna().any():
        frame = CONTRIBUTION.measure(table)
        heading(CONTRIBUTION, model)
        for said in filter(None, (CONTRIBUTION.caption(frame), missed_sentence(table))):
            st.text(in_words_of(model, said))
        picture_and_words(CONTRIBUTION, frame, part)
    elif trace is not None:
        _offer(trace)
    _show(table)


def _of_dataset(shown: ShownDataset) -> pd.DataFrame | None:
    """Return the table of a dataset, from its sums; None if the page has explained why it is missing."""
    if not whole(shown):
        return None
    key = (shown.key, "expert table")
    answers = Answers({key: lambda _tell: expert_table(DatasetStatistics(shown.dataset))})
    try:
        found = answers.drawn(key, shown.dataset.model)
    except DamagedShard as error:
        damage(shown, error)
        return None
    answers.watch()
    return found


def _of_texts(trace: RoutingTrace) -> pd.DataFrame:
    if (name := subject().id) in ROUTING:
        return recorded.expert_table(name)
    say_sample(trace)
    return _table(trace)


@recorded.once_per_trace
def _table(trace: RoutingTrace) -> pd.DataFrame:
    return expert_table(sample_of_texts(trace))


def _offer(trace: RoutingTrace) -> None:
    """Report that outputs are unknown, and offer to have the model read the texts again, if possible."""
    st.text(NOT_RECORDED)
    run = recent.run_of(trace)
    if (why := model_catalog.why_only_read(trace.model.name if run is None else run.model)) is not None:
        st.text(why)
    elif offer_reading(trace, READ, WHY, outputs=True):
        st.rerun()


def _show(table: pd.DataFrame) -> None:
    table = table.assign(breadth=breadth(table))
    known = {column: COLUMNS[column] for column in filled_columns(table, COLUMNS)}
    shown = table[[*known]].head(MOST_ROWS)
    texts = shown.select_dtypes(exclude="number").columns
    st.dataframe(
        shown.assign(**{name: shown[name].map(lambda text: text and visible(text)) for name in texts}).round(3),
        hide_index=True,
        key="all experts",
        column_config={column: st.column_config.Column(title, help=says) for column, (title, says) in known.items()},
    )
    if len(table) > MOST_ROWS:
        note(f"The first {MOST_ROWS:,} of {len(table):,} rows. The CSV has all of them.")
    st.download_button(
        "CSV",
        model_service.file_maker(lambda: table_as_csv(table)),
        "moeviz-experts.csv",
        "text/csv",
        on_click="ignore",
        key="experts csv",
        icon=":material/download:",
    )
