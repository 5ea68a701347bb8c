"""Entry point: `streamlit run app/main.py`. Lays out the pages, and keeps the address true."""

import sys
from pathlib import Path

import streamlit as st

sys.path.insert(0, str(Path(__file__).parent.parent))  # a clone runs without being installed

from app import links
from app.menu import menu
from app.timing import log_moment

STYLE = """<style>
[data-testid='stMainBlockContainer'] {padding-top: 4rem} /* the room of the bar above, no more */
[data-testid='stSliderThumbValue'] {color: inherit} /* the accent is too pale for small type on a dark page */
.katex-display, .katex-display > .katex {overflow: visible !important} /* else a box to scroll in that no key reaches */
@media (max-width: 640px) {.katex-display > .katex {font-size: 0.95em}}
</style>"""

log_moment("script begins")
st.html(STYLE)
page = st.navigation(menu(), position="top")
st.set_page_config(page_title=f"{page.title} · moeviz", page_icon="🧭", layout="wide")
links.follow()
page.run()
links.write()
log_moment("script ends")
