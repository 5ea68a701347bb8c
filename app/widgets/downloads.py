"""The current trace as files, one for each format of moeviz.formats.exports, and its counts alone."""

import re
from functools import partial

import streamlit as st
from moeviz_app.jobs import model_service

from moeviz.formats.counts_file import counts_alone, to_counts_json
from moeviz.formats.exports import EXPORTS
from moeviz.routing_trace import Counted, RoutingTrace

WORDS_IN_NAME = 5


def downloads(trace: RoutingTrace) -> None:
    """A button for each format. The file is only made when somebody asks for it."""
    with st.container(horizontal=True):
        for export in (export for export in EXPORTS if export.ready):
            st.download_button(
                export.label,
                data=model_service.file_maker(partial(export.write, trace)),  # without a session, so it holds the trace
                file_name=file_stem(trace) + export.suffix,
                mime=export.mime,
                on_click="ignore",
                key=f"trace{export.suffix}",
                icon=":material/download:",
            )
        st.download_button(
            "Counts",
            data=model_service.file_maker(lambda: to_counts_json(counts_alone(trace))),
            file_name=file_stem(trace, words=False) + ".json",
            mime="application/json",
            on_click="ignore",
            key="trace counts",
            icon=":material/download:",
            help="How many tokens each expert got, and nothing of any one token. All other files say more: the experts "
            "of a token give a part of its text away.",
        )


def file_stem(trace: Counted, words: bool = True) -> str:
    """A file name without its suffix, from the model's name and the first words of the trace, which counts lack.

    Names and words are a stranger's: only letters a to z, digits and hyphens are left of them.
    """
    model = re.split(r"[/\\]", trace.model.name)[-1]
    has_words = words and isinstance(trace, RoutingTrace)
    texts = trace.tokens["text"].head(WORDS_IN_NAME * 6) if has_words else ["counts"]
    first = re.findall(r"[a-z0-9]+", "".join(texts).lower())[:WORDS_IN_NAME]
    parts = ["moeviz", *re.findall(r"[a-z0-9]+", model.lower())[:WORDS_IN_NAME], *first]
    return "-".join(parts)[:80]
