"""The app's menu: the pages, grouped by what one asks about. Each topic of moeviz.charts is a page."""

from functools import partial
from importlib import import_module

import streamlit as st
from moeviz_app.views.compare import compare_page
from moeviz_app.views.corpus import corpus_page
from moeviz_app.views.expert import expert_page
from moeviz_app.views.history.article import article_page
from moeviz_app.views.history.overview import overview_page
from moeviz_app.views.routing_over_training import routing_over_training_page
from moeviz_app.views.run import run_page
from moeviz_app.views.timeline import timeline_page
from moeviz_app.views.topic import topic_page
from moeviz_app.views.traces import traces_page
from moeviz_app.views.what_if import what_if_page

from moeviz.charts import TOPICS
from moeviz.history.systems import EXHIBITS

FIRST = "Run"
EXPERT = "expert"  # address of the page of one expert, which has no entry: every expert's id leads there
# The pages of the history gallery: files of views/history by title. They train with torch and scikit-learn, so each is
# loaded when somebody opens it.
GALLERY = {row.title: folder for folder, row in EXHIBITS.items()}
MENU = {
    "": (FIRST,),
    "Experts": ("Tokens", "Load", "Specialization", "Co-activation"),
    "Routers": ("Confidence", "Locality", "Losses"),
    "Depth": ("Layers", "Flow"),
    "Cost": ("Parameters", "Coverage", "Placement"),
    "Ask": ("Compare", "What if", "Corpus", "Routing over training"),
    "History": ("Timeline", "Article", "Gallery", *GALLERY),
    "Files": ("Traces",),
}


# Addresses of pages as they were once called: bookmarks and links in messages still open the page.
OLD_ADDRESSES = {
    "capture": FIRST,
    "cooperation": "Co-activation",
    "repetition": "Locality",
    "formation": "Routing over training",
}


def _exhibit(folder: str) -> None:
    import_module(f"moeviz_app.views.history.{folder}").page()


PAGES = {
    FIRST: run_page,
    **{topic: partial(topic_page, topic) for topic in TOPICS},
    "Compare": compare_page,
    "What if": what_if_page,
    "Corpus": corpus_page,
    "Routing over training": routing_over_training_page,
    "Timeline": timeline_page,
    "Article": lambda: article_page(_page),
    "Gallery": lambda: overview_page(_page),
    **{title: partial(_exhibit, folder) for title, folder in GALLERY.items()},
    "Traces": traces_page,
}


def menu() -> dict[str, list[st.Page]]:
    """For st.navigation."""
    pages = {group: [_page(name) for name in names] for group, names in MENU.items()}
    moved = [
        st.Page(partial(_lead_on, name), title=name, url_path=old, visibility="hidden")
        for old, name in OLD_ADDRESSES.items()
    ]
    of_expert = st.Page(expert_page, title="Expert", url_path=EXPERT, visibility="hidden")
    return pages | {"": [*pages[""], of_expert, *moved]}


def _lead_on(name: str) -> None:
    st.switch_page(_page(name), query_params=st.query_params.to_dict())


def _page(name: str) -> st.Page:
    path = None if name == FIRST else name.lower().replace(" ", "-")
    return st.Page(PAGES[name], title=name, url_path=path, default=name == FIRST)
