"""The article that moeviz grew from: a page for each of its sentences, and what the article got wrong."""

from collections.abc import Callable

import streamlit as st

from moeviz.history.article import POINTS, corrections


def article_page(page_of: Callable[[str], st.Page]) -> None:
    """Each sentence with a link to the page where it can be seen; then the corrections. `page_of` is the menu's."""
    st.title("Article", anchor=False)
    st.markdown(
        "moeviz grew from an article, *The History of Mixture of Experts* (26 April 2024), which runs from 1991 to "
        "Mixtral. This page shows where you can see each of its sentences at work, and what it got wrong."
    )
    for point in POINTS:
        with st.container(border=True):
            st.markdown(f"“{point.quotation}”")
            with st.container(horizontal=True, vertical_alignment="center"):
                st.page_link(page_of(point.page), label=point.page, icon=":material/arrow_forward:", width="content")
                st.markdown(point.look, width="stretch")
    st.subheader("Corrections", anchor=False)
    st.table(corrections().set_index("the article says"))
