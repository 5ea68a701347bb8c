"""One page, from its menu to its address: what Streamlit runs anew whenever a visitor does something."""

import streamlit as st
from moeviz_app import links, state
from moeviz_app.begin import begin
from moeviz_app.components.ask import is_asked
from moeviz_app.show import explained, say
from moeviz_app.timing import log_moment
from moeviz_app.views.menu import EXPERT, FIRST, draw_further, draw_menu, menu

STYLE = """<style>
[data-testid='stHeader'] {height: 2.6rem; background: transparent; pointer-events: none} /* the menu below is the bar */
[data-testid='stHeader'] button {pointer-events: auto}
[data-testid='stMainBlockContainer'] {padding: 0.5rem clamp(0.9rem, 3vw, 2.5rem) 3rem}
[data-testid='stMainBlockContainer'] > [data-testid='stVerticalBlock'] {gap: 0.6rem}
[class*='st-key-refused-'] {border-color: #c0362c; background: color-mix(in srgb, #c0362c 9%, transparent)}
.st-key-tagline button, .st-key-menu a {min-height: 2rem; padding-block: 0}
.st-key-tagline em {font-style: normal; opacity: .8}
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
</style>"""


def draw() -> None:
    """Lay out the page that the browser asks for, and keep the address true."""
    log_moment("script begins")
    page = st.navigation(menu(), position="hidden")
    st.set_page_config(page_title=f"{page.title} · moeviz", page_icon="🧭", layout="wide")
    st.html(STYLE)
    draw_menu(page.title)
    state.keep_held()
    with explained():
        if (begins := begin()) and page.title == FIRST:
            st.switch_page(state.page(begins))
    notice = st.empty()
    links.follow(page.url_path)
    if state.waiting() is not None and not is_asked(state.BOX):
        with notice.container():
            say(state.waiting())
    page.run()
    if state.waiting() is None:  # the page ran it
        notice.empty()
    if page.title == FIRST:
        draw_further(FIRST, FIRST)
    else:
        state.set_value(state.GIVEN, None)  # the next explorer is a new one, which has been told nothing
    if page.url_path == EXPERT:
        links.stay(page.url_path)
    elif page.title != FIRST:  # which writes it at every choice
        links.write(page.url_path)
    log_moment("script ends")
