"""What one expert does in a dataset: the numbers of `moeviz.metrics.expert`, from the small tables alone."""

import numpy as np
import pandas as pd

from moeviz.corpus.analyses import co_activation, filled_slots, first_choices, flows, labelled
from moeviz.formats.dataset.reader import Dataset, label_codes
from moeviz.metrics import expert as of_expert
from moeviz.metrics.expert import strongest

MOST_CELLS = 2**18  # labels x layers x experts


def expert_numbers(dataset: Dataset, layer: int, expert: int) -> pd.DataFrame:
    """As `moeviz.metrics.expert.expert_numbers`, without its mean weight (NaN): the tables have no weights."""
    counts = dataset.counts()
    row = of_expert.row_of(counts, layer, expert)
    model, load = dataset.model, counts.assignments[0, row][: dataset.model.num_experts[row]]
    tokens, ordered = int(load[expert]), model.slot_order == "weight" or model.top_k == 1
    first = int(first_choices(dataset)[0, row, expert])
    numbers = {
        "tokens": tokens,
        "recorded": int(counts.tokens[0, row]),
        "times_uniform": tokens / load.sum() * len(load) if load.any() else np.nan,
        "rank": int((load > tokens).sum() + (load[:expert] == tokens).sum() + 1),
        "num_experts": len(load),
        "first_choice": first / tokens if ordered and tokens else np.nan,
        "mean_weight": np.nan,
    }
    return pd.DataFrame([numbers]).astype({"rank": np.int16, "num_experts": np.int16})


def expert_loads(dataset: Dataset, layer: int, expert: int) -> pd.DataFrame:
    """As `moeviz.metrics.expert.expert_loads`."""
    return of_expert.expert_loads(dataset.counts(), layer, expert)


def expert_kinds(dataset: Dataset, layer: int, expert: int) -> pd.DataFrame:
    """As `moeviz.metrics.expert.expert_kinds`, without its `luck` (NaN), so that nothing stands out: that needs the
    counts of each text.
    """
    counts = labelled(dataset, "What an expert takes of each kind of text")
    row = of_expert.row_of(counts, layer, expert)
    names, slots = list(counts.groups), int(counts.assignments[:, row].sum())
    texts = np.zeros(len(names), np.int64)
    for _, table in dataset.table("texts"):
        np.add.at(texts, label_codes(table, [str(name) for name in names]), 1)
    tokens, has = counts.tokens[:, row], counts.assignments[:, row, expert]
    share = np.divide(has, tokens, out=np.full(len(names), np.nan), where=tokens > 0)
    uniform = slots / max(int(tokens.sum()), 1) / dataset.model.num_experts[row]
    columns = {
        "label": pd.array(np.array(names, object), "str"),
        "texts": texts,
        "tokens": tokens,
        "has": has,
        "share": share,
        "uniform": uniform,
        "times": share / uniform if uniform else np.nan,
        "luck": np.nan,
        "stands_out": False,
    }
    return pd.DataFrame(columns).sort_values("share", ascending=False, kind="stable", ignore_index=True)


def expert_atlas(dataset: Dataset, layer: int, expert: int) -> pd.DataFrame:
    """As `moeviz.metrics.expert.expert_atlas`; of the expert's own layer alone, where all are too many to draw."""
    counts = labelled(dataset, "An atlas of experts")
    of_expert.row_of(counts, layer, expert)
    if counts.assignments.size > MOST_CELLS:
        counts = counts.select([layer])
    return of_expert.expert_atlas(counts, layer, expert)


def partners(dataset: Dataset, layer: int, expert: int) -> pd.DataFrame:
    """As `moeviz.metrics.expert.shared_tokens`, of the expert's own layer: no table has pairs of two layers."""
    counts = dataset.counts()
    row = of_expert.row_of(counts, layer, expert)
    size, has = dataset.model.num_experts[row], int(counts.assignments[0, row, expert])
    tokens, usual = np.zeros(size, np.int64), np.full(size, np.nan)
    tokens[expert] = has
    if dataset.model.top_k > 1 and filled_slots(dataset)[row].any():
        own = co_activation(dataset, [layer]).query("expert == @expert")
        tokens[own["partner"]], usual[own["partner"]] = own["tokens"], own["chance"]
    frame = pd.DataFrame({"layer": np.full(size, layer, np.int32), "expert": np.arange(size, dtype=np.int16)})
    share = tokens / has if has else np.full(size, np.nan)
    frame = of_expert.marked(frame.assign(tokens=tokens, share=share, usual=usual), layer, expert)
    times = frame["share"] / frame["usual"].where(frame["usual"] > 0)
    return frame.assign(times=times.where(~frame["here"]))[
        ["layer", "expert", "tokens", "share", "usual", "times", "here"]
    ]


def expert_flow(dataset: Dataset, layer: int, expert: int) -> pd.DataFrame:
    """Where the tokens whose first choice an expert is were a layer before, and where they are a layer after.

    As `moeviz.metrics.expert.expert_flow`, by first choices alone, of which the tables have pairs: on each
    side, share is of these tokens that have a first choice there, and sums to 1 over its experts; times is share /
    that expert's share of all first choices. Raises `MissingField` where it is not known which are first choices.

    Source: moeviz's own; the shares are counts.
    """
    model, sides = dataset.model, []
    row = of_expert.row_of(dataset.counts(), layer, expert)
    for side, at in (("before", row - 1), ("after", row + 1)):
        if 0 <= at < len(model.layers):
            ((_, flow),) = flows(dataset, [model.layers[n] for n in sorted((row, at))])
            flow = flow if side == "before" else flow.T  # of the other layer's experts, down, to those of this one
            tokens, usual = flow[:, expert], flow.sum(axis=1) / max(flow.sum(), 1)
            share = tokens / max(tokens.sum(), 1)
            there = pd.DataFrame({"layer": model.layers[at], "expert": np.arange(len(flow)), "tokens": tokens})
            times = np.divide(share, usual, out=np.full(len(flow), np.nan), where=usual > 0)
            sides.append((side, there.assign(share=share, times=times), model.num_experts[at]))
    return strongest(sides)
