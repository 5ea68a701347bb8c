"""The tokens that experts promote, and experts alike in output: by the vectors that they add to the residual stream.

An expert's mean output, less that of its layer, through the model's final norm and head, promotes some tokens. Any
vector promotes some; and an expert of French texts promotes French as all experts do there, and French follows. So
it is reported only if the expert's own tokens are followed by what it promotes more often than other tokens of the same
texts, on texts that had no part in the mean, and more clearly than where outputs are shuffled within each text.

Letters: E experts, D numbers of an output, S shuffles, V vocabulary, T tokens that test.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from moeviz.capture.corpus import fitting_stretches
from moeviz.capture.models.load import LoadedModel
from moeviz.capture.record.expert_outputs import OutputReader, SlotOutputs, is_latent, outputs_recorded
from moeviz.capture.record.hooks import exclusive_eval
from moeviz.capture.record.next_tokens import lens_of, why_no_next_tokens
from moeviz.capture.routers.discovery import find_routers
from moeviz.capture.routers.geometry import nearest
from moeviz.capture.run.generation import Progress
from moeviz.capture.run.prompts import ModelInput, prepare
from moeviz.capture.run.request import CaptureRequest
from moeviz.capture.run.token_texts import texts_of_tokens
from moeviz.errors import CaptureError, InvalidPrompt

SHUFFLES = 20
PROMOTED, NAMED = 100, 5  # tokens that count as promoted, and those that are named
FEWEST = 30  # tokens of the expert on either half
GAIN = 0.02  # by which a larger share of the expert's tokens must be followed by a promoted one
BEYOND = 2.5  # times as far from what shuffles give on average as the furthest of them
LEAST = 1e-3  # of a shuffle's gain, that others are measured by
ROWS = 16  # of a text, that every expert of a layer is given
MOST_BYTES = 2 * 2**30  # of the sums of all experts, shuffled ones included


@dataclass(frozen=True, slots=True)
class ExpertVectors:
    """The tokens and similarities that the outputs of all experts show.

    written  one row per layer and expert. Columns: layer int32 · expert int16 · tokens int64 (that it has on the half
             of the texts that tests) · promoted object (a tuple of the five most promoted tokens' texts) · followed
             float64 (share of its tokens that are followed by one of its 100 most promoted) · usual float64 (the same
             of all tokens of the texts that its tokens are in) · everywhere float64 (of all tokens) · beyond float64
             (the gain: how far followed less usual is above its mean where outputs are shuffled; in times of the
             furthest of the shuffles of all experts) · holds bool. Empty where the model has no head to ask, or its
             outputs are of another space than the residual stream.
    nearest  one row per layer and expert: columns as of `nearest_by_weights`; cosine is the mean over tokens of that of
             both experts' outputs for the same token.
    """

    written: pd.DataFrame
    nearest: pd.DataFrame


@dataclass(slots=True)
class _LayerSums:
    """Sums over the outputs of one layer's experts."""

    experts: int
    sums: Tensor | None = None  # (S + 1, E, D) float64, the first not shuffled: of half of the texts
    counts: Tensor | None = None  # (S + 1, E)
    chosen: list[Tensor] = field(default_factory=list)  # (T, K) of the other half
    gram: Tensor | None = None  # (E, E): sums of cosines of outputs for the same token
    asked: int = 0  # tokens

    def add(self, slots: SlotOutputs, rows: slice, outputs: Tensor, rng: np.random.Generator) -> None:
        ids = slots.ids[rows].flatten().long()
        filled = ids >= 0
        added = (outputs * slots.weights[rows].float().unsqueeze(-1)).flatten(0, 1)[filled].double().cpu()
        ids = ids[filled].cpu()
        if self.sums is None or self.counts is None:
            self.sums = torch.zeros(SHUFFLES + 1, self.experts, added.shape[-1], dtype=torch.float64)
            self.counts = torch.zeros(SHUFFLES + 1, self.experts, dtype=torch.float64)
        for shuffle in range(SHUFFLES + 1):
            own = ids if shuffle == 0 else ids[torch.from_numpy(rng.permutation(len(ids)))]
            self.sums[shuffle].index_add_(0, own, added)
            self.counts[shuffle] += torch.bincount(own, minlength=self.experts)

    def ask_all(self, slots: SlotOutputs) -> None:
        """Have every expert compute the same few rows."""
        if slots.of_all is None:
            return
        outputs = torch.nn.functional.normalize(slots.of_all(slice(ROWS)).float(), dim=-1)
        gram = torch.einsum("ned,nfd->ef", outputs, outputs).double().cpu()
        self.gram = gram if self.gram is None else self.gram + gram
        self.asked += len(outputs)


@torch.no_grad()
def expert_vectors(
    model: LoadedModel, texts: Iterable[tuple[str, str]], *, progress: Progress | None = None
) -> ExpertVectors:
    """Read labelled texts, and report which tokens each expert promotes and which experts have the same output.

    Every other text of each label makes the means, and the others test them. A sentence holds if the share of the
    expert's tokens that are followed by a promoted one is at least 0.02 above that of all tokens of the same texts, and
    above its mean over 20 shuffles (seed 0) of the outputs within each text; and 2.5 times as far above it as any
    shuffle of any of the model's experts is above that expert's mean.

    texts     (label, text) pairs, as `trace_corpus` takes them.
    progress  called with (done, total) after each text. Raise in it to stop.

    Only the expert's own part is examined: later layers may undo it.

    Raises `InvalidPrompt` without texts, `CaptureError` for a model whose sums take more than 2 GB of memory, and what
    `trace` raises where outputs are asked for.

    Source: the logit lens of feed-forward updates, Geva et al. (arXiv 2203.14680), section 3; the test is moeviz's own.
    """
    texts = list(texts)
    if not texts:
        raise InvalidPrompt("There are no texts to read. Give at least one, with its label.")
    runs = model.model
    routers = find_routers(runs)
    layers = [_LayerSums(router.num_experts) for router in routers]
    _check_memory(model, sum(layer.experts for layer in layers))
    rng, seen, following, ends = np.random.default_rng(0), Counter[str](), list[int](), list[int]()
    testing = False

    def also(index: int, slots: SlotOutputs, rows: slice, outputs: Tensor) -> None:
        layer = layers[index]
        if testing:
            layer.chosen.append(slots.ids[rows].cpu())
        else:
            layer.add(slots, rows, outputs, rng)
            if rows.start == 0:
                layer.ask_all(slots)

    for done, (label, text) in enumerate(texts, start=1):
        testing = seen[label] % 2 == 1
        seen[label] += 1
        for stretch in fitting_stretches(model, text):
            run = prepare(model, CaptureRequest((stretch,)))
            read_telling_outputs(run, also)
            if testing:
                following += [*run.batch.input_ids[0, 1:].tolist(), -1]
                ends.append(len(following))
        if progress is not None:
            progress(done, len(texts))
    alike = [
        nearest(_cosines(layer), router.layer, router.num_experts)
        for router, layer in zip(routers, layers, strict=True)
    ]
    return ExpertVectors(
        _written(model, layers, np.array(following), np.array(ends)), pd.concat(alike, ignore_index=True)
    )


@torch.no_grad()
def read_telling_outputs(run: ModelInput, also: OutputReader) -> None:
    """Read a prepared text once, in eval mode and by nobody else meanwhile, and tell the outputs of its experts."""
    with exclusive_eval(run.model), outputs_recorded(run.model, None, also=also):
        run.model(input_ids=run.batch.input_ids, attention_mask=run.batch.attention_mask, use_cache=False)


def _check_memory(model: LoadedModel, experts: int) -> None:
    size = (SHUFFLES + 1) * experts * model.model.config.get_text_config().hidden_size * 8
    if size > MOST_BYTES:
        raise CaptureError(
            f"What the {experts:,} experts of {model.name} write needs sums of {size / 2**30:.1f} GB, and at most "
            f"{MOST_BYTES / 2**30:.0f} GB are kept. All else is known without it."
        )


def _cosines(layer: _LayerSums) -> np.ndarray:
    if layer.gram is None:
        return np.full((1, 1), np.nan)
    return (layer.gram / layer.asked).numpy()


COLUMNS = {
    "layer": "int32",
    "expert": "int16",
    "tokens": "int64",
    "promoted": "object",
    "followed": "float64",
    "usual": "float64",
    "everywhere": "float64",
    "beyond": "float64",
    "holds": "bool",
}


def _written(model: LoadedModel, layers: list[_LayerSums], following: np.ndarray, ends: np.ndarray) -> pd.DataFrame:
    runs, routers = model.model, find_routers(model.model)
    parts, gains = list[dict[str, Any]](), list[np.ndarray]()
    lens = None if why_no_next_tokens(runs) else lens_of(runs, routers)
    if lens is not None and not any(map(is_latent, routers)) and len(following):
        norm, head = lens[0], runs.get_output_embeddings()
        for router, layer in zip(routers, layers, strict=True):
            if layer.sums is None or layer.counts is None or not layer.chosen:
                continue
            means = layer.sums / layer.counts.clamp(min=1).unsqueeze(-1)
            centred = means - (layer.sums.sum(1) / layer.counts.sum(1, keepdim=True)).unsqueeze(1)
            weight = next(norm.parameters())
            promoted = [
                head(norm(one.to(weight))).float().topk(PROMOTED).indices.cpu().numpy() for one in centred.unbind()
            ]
            chosen = torch.cat(layer.chosen).numpy()
            own, columns = _test_promoted(promoted, chosen, following, ends)
            columns["enough"] = (columns["tokens"] >= FEWEST) & (layer.counts[0].numpy() >= FEWEST)
            texts = texts_of_tokens(model.tokenizer, promoted[0][:, :NAMED].flatten().tolist())
            names = [tuple(texts[at : at + NAMED]) for at in range(0, len(texts), NAMED)]
            parts.append({"layer": router.layer, "expert": np.arange(layer.experts), "promoted": names} | columns)
            gains.append(own)
    if not gains:
        return pd.DataFrame(columns=[*COLUMNS]).astype(COLUMNS)
    frames = [pd.DataFrame(part | test) for part, test in zip(parts, _borne_out(gains), strict=True)]
    whole = pd.concat(frames, ignore_index=True)
    return whole.assign(holds=whole["holds"] & whole["enough"])[[*COLUMNS]].astype(COLUMNS)


def _test_promoted(
    promoted: list[np.ndarray], chosen: np.ndarray, following: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Measure how far the following tokens confirm what one layer's experts promote: followed less usual, and columns.

    promoted   (E, 100) token ids: the true ones, then those of each shuffle.
    chosen     (T, K) experts of the tokens that test, and following (T,) the token after each; -1 where none is.
    ends       of the texts among the T tokens.
    """
    E, known = len(promoted[0]), following >= 0
    has = np.stack([(chosen == expert).any(-1) & known for expert in range(E)])  # (E, T)
    starts = np.append(0, ends[:-1])
    tokens, in_text, of_text = has.sum(1), np.add.reduceat(has, starts, axis=1), np.add.reduceat(known, starts)
    shares = []
    for top in promoted:
        marked = np.zeros((E, max(int(top.max()), int(following.max())) + 1), bool)
        np.put_along_axis(marked, top, True, axis=1)
        hit = marked[:, following] & known  # (E, T)
        by_text = np.add.reduceat(hit, starts, axis=1) / np.maximum(of_text, 1)
        sums = (hit & has).sum(1), (by_text * in_text).sum(1), hit.sum(1) * tokens / max(known.sum(), 1)
        shares.append([part / np.maximum(tokens, 1) for part in sums])
    gains = np.array([followed - usual for followed, usual, _ in shares])
    figures = zip(("followed", "usual", "everywhere"), shares[0], strict=True)
    return gains, {name: np.where(tokens > 0, part, np.nan) for name, part in figures} | {"tokens": tokens}


def _borne_out(gains: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return columns beyond and holds of each layer, from the gains (S + 1, E) of its experts, the true ones first."""
    above = [part - part[1:].mean(0) for part in gains]
    furthest = max(LEAST, *(part[1:].max() for part in above))
    return [
        {"beyond": part[0] / furthest, "holds": (own[0] >= GAIN) & (part[0] >= max(GAIN, BEYOND * furthest))}
        for own, part in zip(gains, above, strict=True)
    ]
