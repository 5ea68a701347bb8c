"""Figures that nothing else in the tests works out again, each against a computation that shares nothing with it.

    python -m tests.attack.second_computations [--control] [PART ...]

Bits per expert, targets for tuning, a bias judged on a third set of texts, outputs of a GGUF file and of an MLX folder,
the report and the zip of charts, and the answers of `decide` on memory and drafts. One line per part: how many figures
were compared, and the worst difference. `--control` makes every figure of moeviz 1% another one: then each part must
fail. Parts whose engine is not installed say so.
"""

import argparse
import copy
import csv
import io
import json
import math
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1] / "support"))
from random_traces import random_trace

import moeviz
from moeviz.analyses.pruning.bits import bits_study
from moeviz.analyses.what_if import loss_by_set
from moeviz.embedded import embedded_path
from moeviz.embedded.recorded_routing import reference_routing
from moeviz.errors import MoevizError
from moeviz.metrics.contrast import contrast, first_half, texts_of_label, turned
from moeviz.metrics.tune_targets import tune_targets
from moeviz.report.all_charts import charts_zip
from moeviz.report.page import html_report
from moeviz.serving.answers import split_memory
from moeviz.serving.batches import draft_sentence

Figures = Iterator[tuple[float, float]]  # what moeviz says, and what we find
TOLERANCE = 2e-4


# ---- the model, worked out by hand ----------------------------------------------------------------------------------


@contextmanager
def by_hand(model, bias=None, rounded=None, heard=None):
    """Let each MoE block of the embedded model be worked out here: its router, its choice, its experts, their sum."""
    blocks, cached = [layer.mlp for layer in model.model.layers], {}

    def forward(layer: int, block, hidden: torch.Tensor) -> torch.Tensor:
        x = hidden.reshape(-1, hidden.shape[-1])
        logits = x @ block.gate.weight.T
        ranks = logits.clone()
        for expert, amount in (bias or {}).get(layer, {}).items():
            ranks[:, expert] += amount
        answer = torch.zeros_like(x)
        for t in range(len(x)):
            own = sorted(range(8), key=lambda e: (-float(ranks[t, e]), e))[:2]
            own.sort(key=lambda e: -float(logits[t, e]))
            parts = np.exp(np.array([float(logits[t, e]) for e in own]) - float(logits[t, own[0]]))
            outputs = []
            for expert, weight in zip(own, parts / parts.sum(), strict=True):
                pair, down = block.experts.gate_up_proj[expert], block.experts.down_proj[expert]
                if rounded and (layer, expert) in rounded:
                    if (layer, expert) not in cached:
                        cached[layer, expert] = [by_blocks(of, rounded[layer, expert]) for of in (pair, down)]
                    pair, down = cached[layer, expert]
                gate, up = (pair @ x[t]).chunk(2)
                outputs.append((expert, float(weight), down @ (gate / (1 + torch.exp(-gate)) * up)))
                answer[t] += weight * outputs[-1][2]
            if heard is not None:
                heard[layer].append((outputs, answer[t].clone()))
        return answer.reshape(hidden.shape)

    for layer, block in enumerate(blocks):
        block.forward = lambda hidden, layer=layer, block=block: forward(layer, block, hidden)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def by_blocks(weights: torch.Tensor, codes: int) -> torch.Tensor:
    """32 numbers share a step: the largest by size over half the codes, with its sign turned, in float16."""
    flat = weights.detach().numpy().astype(np.float32).reshape(-1, 32)
    found = np.empty_like(flat)
    for row, values in enumerate(flat):
        step = np.float32(values[np.abs(values).argmax()] / -(codes // 2))
        inverse = np.float32(0) if step == 0 else np.float32(1) / step
        code = np.clip(np.floor(values * inverse + np.float32(codes // 2 + 0.5)), 0, codes - 1) - codes // 2
        found[row] = code * np.float32(np.float16(step))
    return torch.from_numpy(found.reshape(weights.shape))


@torch.no_grad()
def logits_of(model, ids: list[int]) -> np.ndarray:
    found = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    return torch.log_softmax(found, -1).numpy()


def losses_of(log_probabilities: np.ndarray, ids: list[int]) -> list[float]:
    return [-float(log_probabilities[at, ids[at + 1]]) for at in range(len(ids) - 1)]


# ---- bits -----------------------------------------------------------------------------------------------------------


def bits() -> Figures:
    loaded = moeviz.load_model()
    lines = [json.loads(line) for line in (embedded_path() / "evaluation.jsonl").read_text("utf-8").splitlines()]
    texts = [(line.get("label", ""), line["text"]) for line in lines[:4]]
    study = bits_study(loaded, texts, tokens=12, draws=1)
    ids = {text: loaded.tokenizer(text)["input_ids"][:12] for _, text in texts}
    assert len(study.calibrated) == len(study.judged) == 2 and not {*study.calibrated} & {*study.judged}
    exact = {text: logits_of(loaded.model, own) for text, own in ids.items()}
    heard = defaultdict(list)
    with by_hand(loaded.model, heard=heard):
        for _, text in study.calibrated:
            logits_of(loaded.model, ids[text])
    for row in study.units.itertuples():
        had = [e for outputs, _ in heard[row.layer] for e, *_ in outputs]
        yield row.tokens, had.count(row.expert)
    some = study.units[study.units["tokens"] > 2].iloc[::6].head(6)
    for row in some.itertuples():
        for name, codes in (("few", 2**3), ("many", 2**4)):
            gaps, apart = [], []
            with by_hand(loaded.model, rounded={(row.layer, row.expert): codes}):
                for _, text in study.calibrated:
                    now = logits_of(loaded.model, ids[text])
                    gaps += [
                        b - a for a, b in zip(losses_of(exact[text], ids[text]), losses_of(now, ids[text]), strict=True)
                    ]
                    apart += (np.exp(exact[text]) * (exact[text] - now)).sum(-1)[:-1].tolist()
            yield getattr(row, f"loss_{name}"), float(np.mean(gaps))
            yield getattr(row, f"kl_{name}"), float(np.mean(apart))
    order = sorted(study.units.itertuples(), key=lambda row: (not row.super, -(row.kl_few - row.kl_many)))
    many = {(row.layer, row.expert) for row in order[: len(order) // 2]}
    for row in study.units.itertuples():
        if not row.super:
            yield row.bits, 4 if (row.layer, row.expert) in many else 3
    every = {(layer, expert): int(2**3.5) for layer in range(6) for expert in range(8)}
    plans = {"uniform": every, "few": dict.fromkeys(every, 8), "many": dict.fromkeys(every, 16)}
    plans["kl"] = {place: 2 ** study.plan()[place] for place in every}
    for name, codes in plans.items():
        with by_hand(loaded.model, rounded=codes):
            found = [x for _, text in study.judged for x in losses_of(logits_of(loaded.model, ids[text]), ids[text])]
        yield float(study.plans.set_index("plan").loc[name, "loss"]), float(np.mean(found))


# ---- targets for tuning ---------------------------------------------------------------------------------------------


def targets() -> Figures:
    texts = reference_routing()
    pair = tuple(texts_of_label(texts, kind) for kind in ("French", "German"))
    for score in ("token", "gate"):
        found = tune_targets(pair, score).set_index(["layer", "expert"])
        means = [_scores(trace, score) for trace in pair]
        for layer in texts.model.layers:
            for expert in range(8):
                row = found.loc[layer, expert]
                yield row["score"], means[0][layer][expert]
                yield row["base_score"], means[1][layer][expert]
            order, done = sorted(range(8), key=lambda e: (-means[0][layer][e], e)), 0.0
            for expert in order:
                yield float(found.loc[layer, expert]["in_esft"]), float(done < 0.2 - 1e-12)
                done += means[0][layer][expert]
        held = found[found["target"]]
        assert len(held) and (held["score"] > held["base_score"]).all() and (held["q"] <= 0.05).all()


def _scores(trace, score: str) -> dict[int, list[float]]:
    found = {}
    for at, layer in enumerate(trace.model.layers):
        texts: dict[int, list[float]] = {}
        for t, text in enumerate(trace.tokens["sequence"].tolist()):
            own = texts.setdefault(text, [0.0] * 8)
            for slot, expert in enumerate(trace.experts[at, t].tolist()):
                own[expert] += 1.0 if score == "token" else float(trace.weights[at, t, slot])
        shares = [[part / sum(own) for part in own] for own in texts.values()]
        found[layer] = [sum(column) / len(shares) for column in zip(*shares, strict=True)]
    return found


# ---- a bias, judged on a third set ----------------------------------------------------------------------------------


def bias() -> Figures:
    loaded, texts = moeviz.load_model(), reference_routing()
    chosen = tuple(first_half(texts_of_label(texts, kind)) for kind in ("French", "German"))
    amounts = turned(contrast(chosen), 4.0)
    third = texts_of_label(texts, "Spanish")
    third = third.select(tokens=third.tokens["sequence"].isin(third.tokens["sequence"].unique()[:2]).to_numpy())
    row = loss_by_set(loaded, {"third": third}, moeviz.Bias(amounts)).iloc[0]
    plain, biased = [], []
    for _, own in third.tokens.groupby("sequence"):
        ids = own["token_id"].tolist()
        late = [at for at in range(1, len(ids)) if 2 * at >= len(ids)]
        for found, more in ((plain, None), (biased, amounts)):
            with by_hand(loaded.model, bias=more):
                each = losses_of(logits_of(loaded.model, ids), ids)
            found += [each[at - 1] for at in late]
    yield row["tokens"], len(plain)
    yield row["loss"], float(np.mean(plain))
    yield row["loss_changed"], float(np.mean(biased))
    assert abs(np.mean(plain) - np.mean(biased)) > 0.01, "the bias changes nothing, so nothing was judged"


# ---- outputs of other engines ---------------------------------------------------------------------------------------


def _outputs(open_it: Callable[[Path], object]) -> Figures:
    """Compare with double precision: the engines and transformers differ by the noise of single precision alone."""
    prompt, exact, heard = (
        "12 + 7 = 19, und heute ist es kalt",
        copy.deepcopy(moeviz.load_model().model),
        defaultdict(list),
    )
    with tempfile.TemporaryDirectory() as folder:
        trace = moeviz.trace(open_it(Path(folder)), prompt, outputs=True)
    with by_hand(exact.double(), heard=heard):
        logits_of(exact, trace.tokens["token_id"].tolist())
    for at in range(len(trace.model.layers)):
        for t, (outputs, whole) in enumerate(heard[at]):
            for slot, (expert, weight, vector) in enumerate(outputs):
                yield trace.experts[at, t, slot], expert
                norm = float(vector.norm())
                yield trace.outputs.norm[at, t, slot], norm
                yield trace.outputs.added[at, t, slot], norm * weight
                yield trace.outputs.greatest[at, t, slot], float(vector.abs().max())
                cosine = float(vector @ whole / norm / whole.norm())
                yield 2 + trace.outputs.cosine[at, t, slot], 2 + cosine  # of the scale of 1, however near to 0 it is


def gguf_outputs() -> Figures:
    from gguf_models import of_transformers, write_model

    yield from _outputs(
        lambda folder: moeviz.load_model(str(write_model(of_transformers("embedded"), folder / "a.gguf")))
    )


def mlx_outputs() -> Figures:
    from mlx_models import model_of, write_folder

    yield from _outputs(lambda folder: moeviz.load_model(f"mlx:{write_folder(folder / 'a', model_of('embedded'))}"))


# ---- the report and the zip -----------------------------------------------------------------------------------------


class Report(HTMLParser):
    """The ids under tokens, and every table of numbers by its columns."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids, self.tables, self.inside = [], [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.inside.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr" and self.tables:
            self.tables[-1].append([])
        if tag in ("th", "td") and self.tables and self.tables[-1]:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.inside[-1:] == ["sub"]:
            self.ids.append(data)
        if self.inside[-1:] in (["th"], ["td"]) and self.tables and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data


def pages() -> Figures:
    trace = reference_routing().select(tokens=slice(0, 300))
    report, files = Report(html_report(trace).decode()), zipfile.ZipFile(io.BytesIO(charts_zip(trace)))
    middle = len(trace.model.layers) // 2
    assert len(report.ids) == 300
    for said, own in zip(report.ids, trace.experts[middle].tolist(), strict=True):
        yield float(said), own[0]
    counts = {(at, e): 0 for at in range(len(trace.model.layers)) for e in range(8)}
    for (at, _, _), expert in np.ndenumerate(trace.experts):
        counts[at, int(expert)] += 1
    names = [name for name in files.namelist() if name.endswith(".csv")]
    in_report, compared = [table for table in report.tables if len(table) > 1], 0
    for name in names:
        head, *rows = csv.reader(io.StringIO(files.read(name).decode("utf-8-sig")))
        if {"layer", "expert", "tokens", "load"} <= {*head}:
            for row in (dict(zip(head, of, strict=True)) for of in rows):
                at = trace.model.layers.index(int(row["layer"]))
                yield float(row["tokens"]), counts[at, int(row["expert"])]
                yield float(row["load"]), counts[at, int(row["expert"])] / 600
        same = [table for table in in_report if table[0] == head and len(table) - 1 == min(len(rows), 200)]
        for numbers, texts in ((_numbers(one[1:]), _numbers(rows[:200])) for one in same[:1]):
            compared += 1
            yield from zip(numbers, texts, strict=False)
    assert compared > 30, f"only {compared} tables of the report are in the zip"


def _numbers(rows: list[list[str]]) -> list[float]:
    found = []
    for cell in (cell for row in rows for cell in row):
        try:
            found.append(float(cell))
        except ValueError:
            continue
    return [number for number in found if math.isfinite(number)]


# ---- memory and drafts ----------------------------------------------------------------------------------------------


def _sets(trace, at: int) -> list[list[int]]:
    last = trace.model.num_experts[at] - trace.model.zero_experts
    rows = [row for row in trace.experts[at].tolist() if row[0] != -2]
    return [sorted({e for e in row if 0 <= e < last}) for row in rows]


def _lru(steps: list[list[int]], places: int) -> int:
    """Hits of a cache that begins empty; of experts used in one step, the lower id is the more recent."""
    last: dict[int, int] = {}
    hits = 0
    for number, asked in enumerate(steps):
        held = sorted(last, key=lambda e: (-last[e], e))[:places]
        hits += sum(e in held for e in asked)
        last |= dict.fromkeys(asked, number)
    return hits


def memory() -> Figures:
    for seed in range(400):
        trace = random_trace(seed)
        sizes = [size - trace.model.zero_experts for size in trace.model.num_experts]
        if len(sizes) > 3 or max(sizes) > 8 or len(trace.tokens) < 8:
            continue
        try:
            frame = split_memory(trace)
        except MoevizError:
            continue
        half = len(trace.tokens) // 2
        parts = [trace.select(tokens=slice(0, half)), trace.select(tokens=slice(half, None))]
        kept = max((max(sizes) + 1) // 2, min(trace.model.top_k, max(sizes)))
        for row, (fit, own) in zip(frame.itertuples(), (parts, parts[::-1]), strict=False):
            table = {part: [[_lru(_sets(of, at), n) for n in range(size + 1)] for at, size in enumerate(sizes)]
                     for part, of in (("fit", fit), ("own", own))}  # fmt: skip
            requests = sum(len(asked) for at in range(len(sizes)) for asked in _sets(own, at))
            equal = [min(kept, size) for size in sizes]
            least = [min(trace.model.top_k, size) for size in sizes]
            ways = [way for way in product(*(range(low, size + 1) for low, size in zip(least, sizes, strict=True)))
                    if sum(way) == sum(equal)]  # fmt: skip
            hits = {way: sum(of[n] for of, n in zip(table["fit"], way, strict=True)) for way in ways}
            mine = tuple(map(int, row.places.split()))
            yield hits[mine], max(hits.values())
            yield row.split, sum(of[n] for of, n in zip(table["own"], mine, strict=True)) / requests
            yield row.equal, sum(of[n] for of, n in zip(table["own"], equal, strict=True)) / requests
            yield row.chance, sum(equal) / sum(sizes)


def drafts() -> Figures:
    texts = reference_routing()
    lengthy = [texts.select(tokens=slice(at, at + 700)) for at in (0, 1000, 3000)]
    for trace, draft in product(lengthy, (2, 4, 8)):
        claim = draft_sentence(trace, draft)
        if claim.name != "draft_needs":
            continue
        ones, several, even = [], [], []
        places = list(zip(trace.tokens["sequence"], trace.tokens["position"], strict=True))
        for at, experts in enumerate(trace.model.num_experts):
            sets = _sets(trace, at)
            ones.append(sum(map(len, sets)) / len(sets))
            windows = [
                len({e for one in sets[t : t + draft] for e in one})
                for t in range(len(sets) - draft + 1)
                if places[t + draft - 1] == (places[t][0], places[t][1] + draft - 1)
            ]
            several.append(sum(windows) / len(windows))
            even.append(experts * (1 - (1 - trace.model.top_k / experts) ** draft))
        for name, of in (("one", ones), ("needed", several), ("chance", even)):
            yield claim[name], sum(of) / len(of)


PARTS = {
    "bits": bits,
    "targets": targets,
    "bias": bias,
    "gguf": gguf_outputs,
    "mlx": mlx_outputs,
    "pages": pages,
    "memory": memory,
    "drafts": drafts,
}
NEEDS = {"gguf": "llama_cpp_py_sync", "mlx": "mlx_lm"}


def compared(part: str, control: bool) -> SimpleNamespace:
    """The number of figures, how many differ, and the worst relative difference."""
    found = SimpleNamespace(figures=0, wrong=0, worst=0.0)
    for said, own in PARTS[part]():
        said = float(said) * (1.01 if control else 1)
        apart = abs(said - own) / max(abs(own), 1e-3)
        found.figures, found.worst = found.figures + 1, max(found.worst, apart)
        found.wrong += not apart <= TOLERANCE
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--control", action="store_true", help="make every figure of moeviz 1%% another one")
    args, failed = parser.parse_args(), 0
    for part in args.parts or PARTS:
        if part in NEEDS and find_spec(NEEDS[part]) is None:
            print(f"{part}: not compared, since {NEEDS[part]} is not installed")
            continue
        found = compared(part, args.control)
        failed += (found.wrong > 0) != args.control or not found.figures
        print(f"{part}: {found.figures:,} figures, {found.wrong:,} differ, worst {found.worst:.1e}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
