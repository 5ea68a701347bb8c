"""What `moeviz corpus` reads and what it says: labelled texts in, tables of their routing out."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from moeviz.cli.terminal import frame_text, visible_line
from moeviz.errors import InvalidPrompt, InvalidTrace, MoevizError
from moeviz.labelled_texts import texts_of_files
from moeviz.metrics.locality import locality_by_label
from moeviz.metrics.specialization import label_divergence, label_information, load_by_label
from moeviz.model_info import ModelInfo
from moeviz.names import listed, quoted, why_no_file
from moeviz.routing_trace import RoutingTrace

MEASURES = (label_information, load_by_label, label_divergence, locality_by_label)
FEW_EXPERTS = 16  # all of them fit into a line of a terminal
BUSIEST = 5  # of more


def texts_at(paths: Iterable[str]) -> list[tuple[str, str]]:
    """The (label, text) pairs of files on disk.

    Raises `OSError` for a file that cannot be read, and `InvalidPrompt` for a name that no file can have.
    """
    return texts_of_files((path, _contents(path)) for path in paths)


def _contents(path: str) -> bytes:
    if why := why_no_file(path):
        raise InvalidPrompt(f"No file can be called {quoted(path)}: the name {why}.")
    return Path(path).read_bytes()


def check_layer(layer: int | None, model: ModelInfo) -> None:
    """Raise where the model has no such MoE layer: before it runs, not after."""
    if layer is not None and layer not in model.layers:
        raise InvalidTrace(f"{model.name} has no MoE layer {layer}. Choose one of {listed(model.layers)}.")


def tables(trace: RoutingTrace) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """All numbers about the labels of a trace, by the name of the metric; and why one is missing, where one is."""
    frames, reasons = {}, []
    for measure in MEASURES:
        try:
            frames[measure.__name__] = measure(trace)
        except MoevizError as error:
            reasons.append(str(error))
    return frames, reasons


def report(trace: RoutingTrace, layer: int | None) -> str:
    """What a reader wants first: how much the experts tell about labels, and who uses which at one layer.

    That layer is `layer`, or the one whose experts tell most.
    """
    information = label_information(trace)
    if layer is None:
        layer = int(information["layer"][information["information"].fillna(0).argmax()])
    sequences = trace.tokens.groupby("label", sort=False)["sequence"].nunique()
    heading = (
        f"{visible_line(trace.model.name)}: {len(trace.tokens):,} tokens in {sequences.sum():,} sequences, "
        f"{len(sequences):,} labels\n\n"
        "How much the expert of an assignment tells about the label of its token, in bits. shuffled: the same with "
        "labels\nshuffled among the sequences, mean and highest of 100 shuffles.\n"
    )
    if (sequences == 1).all():
        heading += "Each label has only one sequence, so there is nothing to shuffle. Give several texts per label.\n"
    return "\n".join([heading + frame_text(information.round(3)), "", _routing(trace.select(layers=[layer]))])


def _routing(trace: RoutingTrace) -> str:
    """Who uses which expert at the one layer of the trace."""
    load, (num_experts,) = load_by_label(trace), trace.model.num_experts
    heading = (
        f"Layer {trace.model.layers[0]}: share of each label's assignments by expert, in %; the uniform share is "
        f"{100 / num_experts:.1f}.\n--layer N shows another layer, --json prints all, and -o FILE saves the trace."
    )
    shares = load.assign(percent=100 * load["share"])
    if num_experts <= FEW_EXPERTS:
        wide = shares.pivot(index="label", columns="expert", values="percent").loc[load["label"].unique()]
        return f"{heading}\n{frame_text(wide.round(1).reset_index())}"
    busiest = shares.sort_values("share", ascending=False, kind="stable").groupby("label", sort=False).head(BUSIEST)
    named = busiest.assign(
        experts=[f"{e} ({p:.1f})" for e, p in zip(busiest["expert"], busiest["percent"], strict=True)]
    )
    lines = named.groupby("label")["experts"].agg("  ".join).loc[load["label"].unique()].reset_index()
    return f"{heading} The {BUSIEST} busiest experts of each label:\n{frame_text(lines)}"
