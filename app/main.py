"""Entry point: `streamlit run app/main.py`. Lays out the pages; each topic of moeviz.charts is one."""

import sys
from functools import partial
from pathlib import Path

import streamlit as st

sys.path.insert(0, str(Path(__file__).parent.parent))  # a clone runs without being installed

from app.timing import log_moment
from app.views.capture import capture_page
from app.views.formation import formation_page
from app.views.topic import topic_page
from app.views.traces import traces_page
from moeviz.charts import TOPICS

log_moment("script begins")
st.html("<style>[data-testid='stMainBlockContainer'] {padding-top: 4rem}</style>")  # the room of the bar above, no more
topics = [st.Page(partial(topic_page, topic), title=topic, url_path=topic.lower()) for topic in TOPICS]
page = st.navigation(
    [
        st.Page(capture_page, title="Capture", default=True),
        *topics,
        st.Page(formation_page, title="Formation", url_path="formation"),
        st.Page(traces_page, title="Traces", url_path="traces"),
    ],
    position="top",
)
st.set_page_config(page_title=f"{page.title} · moeviz", page_icon="🧭", layout="wide")
page.run()
log_moment("script ends")
