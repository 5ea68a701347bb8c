"""What `moeviz corpus` reads and what it says: labelled texts in, tables of their routing out. It prints nothing."""

import json
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from moeviz.embedded.evaluation import evaluation_set
from moeviz.errors import InvalidPrompt, InvalidTrace, MoevizError
from moeviz.metrics.repetition import repetition_by_label
from moeviz.metrics.specialization import label_divergence, label_information, load_by_label
from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace
from moeviz.terminal import frame_text, visible_line

MEASURES = (label_information, load_by_label, label_divergence, repetition_by_label)
A_LINE = '{"label": "French", "text": "Il fait froid."}'
FEW_EXPERTS = 16  # all of them fit into a line of a terminal
BUSIEST = 5  # of more


def texts_of_files(paths: Iterable[str]) -> list[tuple[str, str]]:
    """The (label, text) pairs of files: a `.jsonl` file has one a line, any other is one text, labelled by its stem.

    Raises `InvalidPrompt` with the file, and the line, that holds none, and `OSError` for a file that cannot be read.
    """
    pairs = []
    for path in map(Path, paths):
        text = _decoded(path.read_bytes(), path)
        pairs += _texts_of_lines(text, path.name) if path.suffix.lower() == ".jsonl" else [(path.stem, text)]
    return pairs


def texts_that_ship() -> list[tuple[str, str]]:
    """The (label, text) pairs of the held-out texts that come with the embedded model."""
    return [(text.label, text.text) for text in evaluation_set()]


def _decoded(data: bytes, path: Path) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidPrompt(f"{path.name!r} is not text in UTF-8; save it in that encoding.") from error
    if not text.strip():
        raise InvalidPrompt(f"{path.name!r} is empty. A corpus takes files with text in them.")
    return text


def _texts_of_lines(lines: str, name: str) -> list[tuple[str, str]]:
    # str.splitlines would cut at characters that JSON may hold as they are.
    numbered = enumerate(lines.split("\n"), start=1)
    return [_text_of_line(line, f"{name!r}, line {number}") for number, line in numbered if line.strip()]


def _text_of_line(line: str, where: str) -> tuple[str, str]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidPrompt(f"{where} is not JSON. It needs to be like {A_LINE}.") from error
    if not isinstance(found, dict):
        raise InvalidPrompt(f"{where} is no JSON object. It needs to be like {A_LINE}.")
    for field in ("label", "text"):
        if not isinstance(found.get(field), str) or not found[field]:
            raise InvalidPrompt(f"{where} has no {field!r} with some text in it. It needs to be like {A_LINE}.")
        try:
            found[field].encode()
        except UnicodeEncodeError as error:
            raise InvalidPrompt(f"{where} has half a character in its {field!r}, which is no text.") from error
    return found["label"], found["text"]


def check_layer(layer: int | None, model: ModelInfo) -> None:
    """Raise where the model has no such MoE layer: before it runs, not after."""
    if layer is not None and layer not in model.layers:
        raise InvalidTrace(f"{model.name} has no MoE layer {layer}; it has {model.layers}.")


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
        "What the expert of an assignment tells about the label of its token, in bits. shuffled: the same with labels\n"
        "shuffled among the sequences, mean and highest of 100.\n"
    )
    if (sequences == 1).all():
        heading += "Each label has one sequence, so there is nothing to shuffle: give several texts a label.\n"
    return "\n".join([heading + frame_text(information.round(3)), "", _routing(trace.select(layers=[layer]))])


def _routing(trace: RoutingTrace) -> str:
    """Who uses which expert at the one layer of the trace."""
    load, (num_experts,) = load_by_label(trace), trace.model.num_experts
    heading = (
        f"Layer {trace.model.layers[0]}: share of each label's assignments by expert, in %; an even share is "
        f"{100 / num_experts:.1f}.\n--layer N shows another layer; --json prints them all, and -o FILE keeps the trace."
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
    return f"{heading} The {BUSIEST} busiest of each:\n{frame_text(lines)}"
