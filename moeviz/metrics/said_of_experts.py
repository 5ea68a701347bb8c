"""One sentence on a chart of experts: what stands out in its numbers, or None. Each takes the frame that is drawn."""

from collections.abc import Hashable

import pandas as pd

from moeviz.metrics.luck import clearest
from moeviz.metrics.words import one_row, percent, short

TWICE = 2.0
A_GAP = 0.1  # between load and probability
MORE = 1.2  # times what luck gives, for tokens to keep to an expert
ENOUGH = 5  # tokens of the vocabulary that belong to an expert
BITS = 0.3  # above what shuffled labels give


def said_of_load(frame: pd.DataFrame) -> str | None:
    """The expert that has most over a uniform share, if it is at least 1.5 times and beyond luck."""
    assignments = frame.groupby("layer")["tokens"].transform("sum")
    if (at := clearest(frame["load"], assignments, frame["uniform"])) is None:
        return None
    row = one_row(frame, at)
    times = f"{row.times_even:.1f}× a uniform share"
    return f"Expert {row.expert} of layer {row.layer} has {percent(row.load)} of the layer's assignments: {times}."


def said_of_importance(frame: pd.DataFrame) -> str | None:
    """The expert whose load and mean probability are furthest apart: at least 10 points, and one half more."""
    apart = (frame["load"] - frame["importance"]).abs()
    larger, smaller = frame[["load", "importance"]].max(axis=1), frame[["load", "importance"]].min(axis=1)
    apart = apart[(apart >= A_GAP) & (larger >= 1.5 * smaller)]
    if apart.empty:
        return None
    row = one_row(frame, apart.idxmax())
    given = f"{percent(row.load)} of the assignments, and a mean probability of {percent(row.importance)}"
    return f"Expert {row.expert} of layer {row.layer} has {given}."


def said_of_label_load(frame: pd.DataFrame) -> str | None:
    """The label that uses an expert most: at least twice a uniform share, and twice what all labels have on average."""
    mean = frame.groupby("expert")["share"].transform("mean")
    known = frame["uniform"].clip(lower=mean)
    assignments = frame.groupby("label", sort=False)["assignments"].transform("sum")
    if (at := clearest(frame["share"], assignments, known, TWICE)) is None:
        return None
    row = one_row(frame, at)
    share = f"{percent(row.share)} of the assignments of “{short(row.label)}” go to expert {row.expert}"
    return f"At layer {row.layer}, {share}: {row.share / row.uniform:.1f}× a uniform share."


def said_of_divergence(frame: pd.DataFrame) -> str | None:
    """The two labels that are routed most differently, if far more so than with shuffled labels."""
    clear = frame[
        (frame["divergence"] >= frame["shuffled"] + BITS) & (frame["divergence"] >= TWICE * frame["shuffled"])
    ]
    if clear.empty:
        return None
    row = one_row(clear, clear["divergence"].idxmax())
    pair = f"“{short(row.label)}” and “{short(row.other)}”"
    numbers = f"{row.divergence:.2f} of 1 bit; with shuffled labels {row.shuffled:.2f}"
    return f"{pair} are routed most differently: {numbers}."


def said_of_kinds(frame: pd.DataFrame) -> str | None:
    """The kind of token that goes to an expert most over what all tokens do."""
    of_kind = frame.groupby("kind", sort=False)["assignments"].transform("sum")
    if (at := clearest(frame["share"], of_kind, frame["share"] / frame["lift"])) is None:
        return None
    row = one_row(frame, at)
    where = f"{percent(row.share)} of the assignments of “{row.kind}” go to expert {row.expert}"
    return f"At layer {row.layer}, {where}: {row.lift:.1f}× as much as of all tokens."


def said_of_vocabulary_by_layer(frame: pd.DataFrame) -> str | None:
    """The layer whose tokens keep most to one expert: a fifth more than luck gives."""
    if (at := _keeping(frame)) is None:
        return None
    row = one_row(frame, at)
    shares = f"{percent(row.specialization)} of its occurrences; shuffled, {percent(row.shuffled)}"
    return f"At layer {row.layer}, a token keeps to one expert in {shares}."


def said_of_vocabulary(frame: pd.DataFrame) -> str | None:
    """The expert whose tokens keep most to it: a fifth more than luck gives, and at least five of them."""
    if (at := _keeping(frame)) is None:
        return None
    row = one_row(frame, at)
    shares = f"{percent(row.specialization)} of their occurrences; shuffled, {percent(row.shuffled)}"
    return f"At layer {row.layer}, tokens that belong to expert {row.expert} go there in {shares}."


def _keeping(frame: pd.DataFrame) -> Hashable | None:
    over = frame["specialization"] / frame["shuffled"]
    clear = over[(over >= MORE) & (frame["token_ids"] >= ENOUGH)]
    return None if clear.empty else clear.idxmax()


def said_of_co_activation(frame: pd.DataFrame) -> str | None:
    """The expert that goes together with another most beyond chance, with the share of its tokens."""
    if (at := clearest(frame["co_activation"], frame["expert_tokens"], frame["chance"])) is None:
        return None
    row = one_row(frame, at)
    who = f"{percent(row.co_activation)} of the tokens of expert {row.expert} also go to expert {row.partner}"
    return f"At layer {row.layer}, {who}; at random it would be {percent(row.chance)}."


def said_of_pairs(frame: pd.DataFrame) -> str | None:
    """The pair of experts that share most tokens beyond chance, with their number."""
    if (at := clearest(frame["co_activation"], frame["expert_tokens"], frame["chance"])) is None:
        return None
    row = one_row(frame, at)
    first, second = sorted((row.expert, row.partner))
    pair = f"Experts {first} and {second} of layer {row.layer} share {row.tokens:,} tokens"
    return f"{pair}; at random it would be about {row.chance_tokens:,.0f}."


def said_of_transitions(frame: pd.DataFrame) -> str | None:
    """The expert whose tokens go on to another one most beyond chance."""
    from_tokens = frame.groupby(["from_layer", "from_expert"])["tokens"].transform("sum")
    if (at := clearest(frame["share"], from_tokens, frame["chance"])) is None:
        return None
    row = one_row(frame, at)
    sends = f"Layer {row.from_layer}'s expert {row.from_expert} sends {percent(row.share)} of its tokens on"
    return f"{sends} to layer {row.to_layer}'s expert {row.to_expert}; at random it would be {percent(row.chance)}."
