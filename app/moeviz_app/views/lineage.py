"""The page Lineage: where the experts of one checkpoint come from in another, and which of its were cut."""

from typing import Any

import streamlit as st

from moeviz.charts.lineage import FATES, GRID
from moeviz.metrics.lineage import WHAT
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.fair_queue import Tell
from moeviz_app.jobs.recorded import cached_for_example, example
from moeviz_app.server import identity
from moeviz_app.session import session
from moeviz_app.session.visit import visit
from moeviz_app.widgets.chart_panel import heading, picture_and_words
from moeviz_app.widgets.messages import example_note, explained
from moeviz_app.widgets.pickers import layer_of
from moeviz_app.widgets.run_panel import waited_for

READS = "The weights of both are read, a few rows at a time …"
EVERY = 16  # experts between two looks at the bar


def lineage_page() -> None:
    """Choose two checkpoints; see what was done to each expert, and which expert comes from which."""
    st.title("Lineage", anchor=False)
    st.markdown(
        "Was a checkpoint pruned, merged or upcycled from another? Its experts are found again by their weights; "
        "neither model is loaded."
    )
    base, child, asked = _choose()
    st.text("Compare reads the weights of all experts while nobody else waits, and says how long the rest takes.")
    with explained():
        if asked:
            for name in (base, child):
                model_catalog.check_on_offer(name)
            model_service.begin_run(dear=True)
            visit().lineage = (base, child, _compared(base, child))
        if (known := visit().lineage) is not None and known[:2] == (base, child):
            _show(known[2])
        elif known is None and (base, child) == _usual():
            from moeviz.recorded_answers import recorded_lineage

            example_note(
                "The embedded model, and a checkpoint without one expert of each layer: the one least needed by "
                "REAP, as on the page Prune. To find what was done to others, choose two and press Compare."
            )
            _show(cached_for_example(example(), "lineage", recorded_lineage))


def _usual() -> tuple[str, str]:
    models = settings.SETTINGS.models
    return models[0], models[:2][-1]  # experts of one shape, if they are ours


def _choose() -> tuple[str, str, bool]:
    free, models = identity.may_name_any_model(), settings.SETTINGS.models
    say = "Choose one, or type the path of a folder with .safetensors files, or of a .gguf file." if free else None
    for key, usual in zip((session.BASE, session.CHILD), _usual(), strict=True):
        session.start_with(key, usual)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        base, child = (
            st.selectbox(label, models, key=key, accept_new_options=free, width=320, persist_state="session", help=say)
            for label, key in (("Base", session.BASE), ("Child: what was made of it", session.CHILD))
        )
        asked = st.button("Compare", type="primary", shortcut="mod+enter")
    return base, child, asked


def _compared(base: str, child: str) -> Any:
    """Find the lineage, in the time that others leave over. Raises what `moeviz.lineage` raises."""
    from moeviz.analyses.lineage import lineage

    def work(tell: Tell) -> Any:
        return lineage(base, child, progress=lambda done, total: None if done % EVERY else tell((done, total)))

    return waited_for(model_service.run_dear(work), READS, "experts compared")


def _show(found: Any) -> None:
    """Draw the sentences, the fate of each expert of the base, and one layer pair by pair."""
    with st.container(border=True, key="answer"):
        for sentence in found.says:
            st.text(sentence)
    table = found.table
    fates = FATES.measure(table)
    if fates.empty:
        return
    heading(FATES)
    picture_and_words(FATES, fates)
    heading(GRID)
    layers = [*found.layers]
    layer = layer_of(layers, session.LINEAGE_LAYER, _most_changed(table, layers), "Layer of the child")
    of_layer = table[(table["layer"] == layer) | ((table["layer"] < 0) & (table["base_layer"] == found.layers[layer]))]
    picture_and_words(GRID, GRID.measure(of_layer))


def _most_changed(table: Any, layers: list[int]) -> int:
    """Return the layer with the most experts that are not as they were; the first layer where none is."""
    changed = table[table["what"] != WHAT[0]]["layer"].value_counts()
    return max(layers, key=lambda layer: (changed.get(layer, 0), -layer))
