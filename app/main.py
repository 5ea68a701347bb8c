"""Entry point: `streamlit run app/main.py`. Lays out the pages, and keeps the address true.

The folder is `app`, the package `moeviz_app`: an installed moeviz must not take the name `app` from everybody else.
"""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import streamlit as st

HOME = Path(__file__).resolve().parent
found = find_spec("moeviz_app")
if found is None or Path(found.origin).resolve().parent != HOME:  # a checkout that is not installed: it brings all
    sys.path[:0] = [str(HOME.parent), str(HOME.parent / "kernels")]
    spec = spec_from_file_location("moeviz_app", HOME / "__init__.py", submodule_search_locations=[str(HOME)])
    sys.modules["moeviz_app"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["moeviz_app"])

from moeviz_app import links, state
from moeviz_app.timing import log_moment
from moeviz_app.views.menu import EXPERT, menu

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
state.keep_held()
links.follow()
page.run()
if page.url_path == EXPERT:
    links.stay()
else:
    links.write()
log_moment("script ends")
