"""Adaptive mixtures of local experts, 1991: train one, and watch the experts share the vowels out."""

import streamlit as st

from app import state
from app.facts import figures
from app.show import explained, heading, picture_and_words
from moeviz.capture.mixtures import from_adaptive_mixtures
from moeviz.charts.decision_lines import DECISION_LINES
from moeviz.charts.specialization import CHARTS, label_load_heatmap
from moeviz.history.adaptive_mixtures import ERRORS, MAX_EPOCHS, Mixture, State, train
from moeviz.history.vowels import stand_in

(BY_LABEL,) = (chart for chart in CHARTS if chart.draw is label_load_heatmap)
TOLD_EVERY = 100  # epochs
EQUATIONS = {
    "cooperative": r"E = \left(d - \sum_i p_i o_i\right)^2",
    "competitive": r"E = \sum_i p_i \left(d - o_i\right)^2",
    "mixture likelihood": r"E = -\log \sum_i p_i \exp\left(-\tfrac{1}{2}(d - o_i)^2\right)",
}


def local_experts_page() -> None:
    """What was new, the controls, and what became of the experts at any recorded epoch."""
    st.title("Local experts", anchor=False)
    st.markdown(
        "1991: several small networks compete for the cases, and a gate learns which of them is to answer. It is the "
        "first mixture of experts. By the third error function the expert that fits a case best learns it fastest. Of "
        "four or eight experts, two or three were left at the end (Jacobs, Jordan, Nowlan and Hinton, *Neural "
        "Computation* 3, 79–87)."
    )
    st.markdown(
        "What does not come out here: that the third error function is the better one (all three end with two experts, "
        "and it needs the most epochs), and that eight experts are faster than four. The paper does not print its step "
        "size, and the numbers of epochs go with it."
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        experts = st.select_slider("Experts", (2, 4, 8), value=4, key=state.LOCAL_EXPERTS)
        error = st.selectbox("Error function", list(ERRORS), index=2, key=state.LOCAL_ERROR)
        seed = st.number_input("Seed", 0, 9999, key=state.LOCAL_SEED)
    st.latex(EQUATIONS[error])
    with explained():
        result = _trained(experts, error, seed)
        _show(result)


def _trained(experts: int, error: str, seed: int) -> Mixture:
    """A run of about a second, with progress; any click ends it."""
    place = st.empty()
    bar = place.progress(0.0, "Training …")

    def watch(epoch: int, now: State) -> None:
        if epoch % TOLD_EVERY == 0:
            bar.progress(epoch / MAX_EPOCHS, f"epoch {epoch}, average squared error {now.error:.3f}")

    try:
        return train(stand_in(), experts, error, seed, watch=watch)
    finally:
        place.empty()


def _show(result: Mixture) -> None:
    data = stand_in()
    st.text(f"The vowels are a {data.source}.")
    ended = f"{result.epochs:,} epochs" if result.epochs is not None else f"not within {MAX_EPOCHS:,} epochs"
    rows = {
        "Error 0.08 reached": (ended, "The paper stops at an average squared error of 0.08 on the training speakers."),
        "Experts left": (str(len(result.surviving)), "That are given at least one training sample."),
        "Right, training": (f"{result.train_accuracy:.0%}", "Of the samples of the first 50 speakers."),
        "Right, test": (f"{result.test_accuracy:.0%}", "Of the samples of the other 25 speakers."),
    }
    figures(rows)
    epoch = st.select_slider("Epoch", result.recorded, result.recorded[-1], lambda epoch: f"{epoch:,}")
    at = result.recorded.index(epoch)
    heading(DECISION_LINES)
    picture_and_words(DECISION_LINES, DECISION_LINES.measure(result, data, at))
    trace = from_adaptive_mixtures(result, data, slots=1)
    heading(BY_LABEL)
    picture_and_words(BY_LABEL, BY_LABEL.measure(trace.select(layers=[epoch])))
    if st.button("Look at it on every page", help="Each recorded epoch is a layer of the trace."):
        state.set_trace(from_adaptive_mixtures(result, data))
        st.success("Every page shows this trace now: a layer is an epoch.")
