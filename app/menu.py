"""The pages by what one asks about: the app's menu. Each topic of moeviz.charts is a page."""

from functools import partial
from importlib import import_module

import streamlit as st

from app.views.capture import capture_page
from app.views.compare import compare_page
from app.views.corpus import corpus_page
from app.views.formation import formation_page
from app.views.history.article import article_page
from app.views.history.overview import overview_page
from app.views.timeline import timeline_page
from app.views.topic import topic_page
from app.views.traces import traces_page
from app.views.what_if import what_if_page
from moeviz.charts import TOPICS

FIRST = "Capture"
# Files of app/views/history. They train with torch and scikit-learn, so each is loaded when somebody opens it.
GALLERY = {
    "Local experts": "local_experts",
    "Hierarchical mixture": "hierarchical",
    "HMM experts": "hmm_experts",
    "SVM experts": "svm_experts",
    "Deep mixture": "deep_mixture",
    "Conditional computation": "conditional",
    "Sparsely gated": "sparsely_gated",
    "Switch": "switch",
    "Mixtral": "mixtral",
    "Dense contrast": "dense",
}
MENU = {
    "": (FIRST,),
    "Experts": ("Tokens", "Load", "Specialization", "Cooperation"),
    "Routers": ("Confidence", "Repetition", "Losses"),
    "Depth": ("Layers", "Flow"),
    "Cost": ("Parameters", "Coverage", "Placement"),
    "Ask": ("Compare", "What if", "Corpus", "Formation"),
    "History": ("Timeline", "Article", "Gallery", *GALLERY),
    "Files": ("Traces",),
}


def _exhibit(file: str) -> None:
    getattr(import_module(f"app.views.history.{file}"), f"{file}_page")()


PAGES = {
    FIRST: capture_page,
    **{topic: partial(topic_page, topic) for topic in TOPICS},
    "Compare": compare_page,
    "What if": what_if_page,
    "Corpus": corpus_page,
    "Formation": formation_page,
    "Timeline": timeline_page,
    "Article": lambda: article_page(_page),
    "Gallery": lambda: overview_page(GALLERY, _page),
    **{title: partial(_exhibit, file) for title, file in GALLERY.items()},
    "Traces": traces_page,
}


def menu() -> dict[str, list[st.Page]]:
    """For st.navigation."""
    return {group: [_page(name) for name in names] for group, names in MENU.items()}


def _page(name: str) -> st.Page:
    path = None if name == FIRST else name.lower().replace(" ", "-")
    return st.Page(PAGES[name], title=name, url_path=path, default=name == FIRST)
