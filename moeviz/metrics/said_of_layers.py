"""One sentence on a chart of layers or of the model: what stands out, or None. Each takes the frame that is drawn."""

from math import exp, log

import pandas as pd

from moeviz.metrics.locality import FIRST_CHOICE, THIS_TRACE
from moeviz.metrics.luck import RARE, clearest
from moeviz.metrics.words import one_row, percent

TWICE, HALF_MORE, A_QUARTER_MORE, A_FIFTH_MORE = 2.0, 1.5, 1.25, 1.2
BITS = 0.1  # above what shuffled tokens give


def said_of_spread(frame: pd.DataFrame) -> str | None:
    """The layer whose load is spread most beyond chance, at least twice; chance by the tail of chi-squared."""
    times = frame["cv"] / frame["chance_cv"]
    freedom = frame["num_experts"] - 1
    luck = [exp(-(n / 2) * (q - 1 - log(q))) if q > 1 else 1.0 for n, q in zip(freedom, times**2, strict=True)]
    clear = frame.assign(times=times)[(times >= TWICE) & (pd.Series(luck, frame.index) * len(frame) <= RARE)]
    if clear.empty:
        return None
    row = one_row(clear, clear["times"].idxmax())
    first = f"The load of layer {row.layer} is spread {row.times:.1f} times as widely as at random"
    return f"{first}; {len(clear)} of {len(frame)} layers, at least twice." if len(frame) > 1 else f"{first}."


def said_of_busiest(frame: pd.DataFrame) -> str | None:
    """The layer whose busiest expert has most over a uniform share, beyond luck."""
    uniform = 1 / frame["num_experts"]
    every = frame.loc[frame.index.repeat(frame["num_experts"])]  # as many experts as could have been the busiest
    share = (every["max_over_mean"] * uniform.loc[every.index]).clip(upper=1)
    if clearest(share, every["assignments"], uniform.loc[every.index]) is None:
        return None
    row = one_row(frame, frame["max_over_mean"].idxmax())
    return (
        f"The busiest expert of layer {row.layer} has {row.max_over_mean:.1f}× a uniform share, the most of all layers."
    )


def said_of_labels(frame: pd.DataFrame) -> str | None:
    """How many layers' experts tell of the label, clearly beyond what shuffled labels do, and where most."""
    above = frame["information"] - frame["shuffled"]
    clear = frame[above > TWICE * (frame["shuffled_highest"] - frame["shuffled"])]
    if clear.empty:
        return None
    row = one_row(clear, clear["information"].idxmax())
    most = f"{row.information:.2f} bits of {row.maximum:.2f}; with shuffled labels {row.shuffled:.2f}"
    return f"The expert tells most about the label at layer {row.layer}: {most}."


def said_of_entropy(frame: pd.DataFrame) -> str | None:
    """The most and the least decided layer, where the middle halves of their tokens do not meet."""
    return _furthest(
        frame,
        "Routers are most undecided at layer {high}, least at layer {low}: median {top:.2f} and {bottom:.2f} of 1.",
    )


def said_of_margin(frame: pd.DataFrame) -> str | None:
    """The layers where the first expert leads most and least, where the middle halves of their tokens do not meet."""
    return _furthest(
        frame,
        "The first expert leads most at layer {high}, least at layer {low}: median {top:.2f} and {bottom:.2f}.",
    )


def _furthest(frame: pd.DataFrame, sentence: str) -> str | None:
    known = frame[frame["q10"] < frame["q90"]]  # several tokens, and several experts
    if known.empty:
        return None
    high, low = one_row(known, known["q50"].idxmax()), one_row(known, known["q50"].idxmin())
    if not high.q25 > low.q75:
        return None
    layers = {"high": f"{high.layer}", "low": f"{low.layer}"}
    return sentence.format(**layers, top=high.q50, bottom=low.q50)


def said_of_repeats(frame: pd.DataFrame) -> str | None:
    """The layer where neighbours go to the same first expert most beyond chance."""
    return _repeats(frame[frame["choice"] == FIRST_CHOICE], "have the same first choice")


def said_of_shared(frame: pd.DataFrame) -> str | None:
    """The layer where neighbours have an expert in common most beyond chance."""
    return _repeats(frame[frame["choice"] != FIRST_CHOICE], "have an expert in common")


def _repeats(frame: pd.DataFrame, what: str) -> str | None:
    own = frame[frame["routing"] == THIS_TRACE]
    at = clearest(own["share"], own["pairs"].astype("float64"), own["load_chance"].astype("float64"), A_FIFTH_MORE)
    if at is None:
        return None
    row = one_row(own, at)
    chance = percent(row.load_chance)
    return f"At layer {row.layer}, {percent(row.share)} of neighbouring tokens {what}; at random it would be {chance}."


def said_of_aux_loss(frame: pd.DataFrame) -> str | None:
    """The layer with the highest balancing loss, if it is a quarter above that of a uniform load."""
    losses = frame["switch"]
    if not losses.max() >= A_QUARTER_MORE:
        return None
    row = one_row(frame, losses.idxmax())
    return f"The loss is highest at layer {row.layer}: {row.transformers:.2f}, where a uniform load has {row.even:.0f}."


def said_of_z_loss(frame: pd.DataFrame) -> str | None:
    """The layer with the highest z-loss, if it is twice that of the median layer."""
    if len(frame) < 3 or not frame["z_loss"].max() >= TWICE * frame["z_loss"].median():
        return None
    row = one_row(frame, frame["z_loss"].idxmax())
    median = f"{frame['z_loss'].median():.3g}"
    return f"The z-loss is highest at layer {row.layer}: {row.z_loss:.3g} nats², where the median layer has {median}."


def said_of_ranked(frame: pd.DataFrame) -> str | None:
    """Which of two layers has the busier first expert: one and a half times as busy, and beyond luck."""
    first = frame[frame["rank"] == 1]
    if len(first) != 2 or not first["times_even"].max() >= HALF_MORE * first["times_even"].min():
        return None
    assignments = frame.groupby("layer")["tokens"].transform("sum")
    if clearest(frame["load"], assignments, frame["uniform"]) is None:
        return None
    high, low = one_row(first, first["times_even"].idxmax()), one_row(first, first["times_even"].idxmin())
    less = f"{low.times_even:.1f}× at layer {low.layer}"
    return f"The busiest expert has {high.times_even:.1f}× a uniform share at layer {high.layer}, and {less}."


def said_of_two_balances(frame: pd.DataFrame) -> str | None:
    """Which of two layers spreads its load more widely: one and a half times, and twice as widely as chance."""
    layers = frame.drop_duplicates("layer")
    if len(layers) != 2 or layers["cv"].isna().any():
        return None
    high, low = one_row(layers, layers["cv"].idxmax()), one_row(layers, layers["cv"].idxmin())
    if high.cv < HALF_MORE * low.cv or high.cv < TWICE * high.chance_cv:
        return None
    numbers = f"{high.cv:.2f} and {low.cv:.2f}"
    return f"The load is spread more widely at layer {high.layer} than at layer {low.layer}: std / mean of {numbers}."


def said_of_overlap(frame: pd.DataFrame) -> str | None:
    """How much one layer's first choice tells of the other's, if one and a half times what shuffled tokens tell."""
    told = frame[frame["measure"] == "mutual information"]
    clear = told[(told["value"] >= HALF_MORE * told["chance"]) & (told["value"] >= told["chance"] + BITS)]
    if clear.empty:
        return None
    row = one_row(clear, clear.index[0])
    bits = f"{row.value:.2f} bits"
    return f"One layer's expert tells {bits} about the other's; with shuffled tokens, {row.chance:.2f}."


def said_of_information(frame: pd.DataFrame) -> str | None:
    """The layer that tells most about the next, if one and a half times what shuffled tokens tell."""
    clear = (frame["information"] >= HALF_MORE * frame["shuffled"]) & (frame["information"] >= frame["shuffled"] + BITS)
    if not clear.any():
        return None
    told = frame[clear]
    row = one_row(told, (told["information"] - told["shuffled"]).idxmax())
    layers = f"Layer {row.from_layer} tells most about the next, layer {row.to_layer}"
    return f"{layers}: {row.information:.2f} bits; with shuffled tokens, {row.shuffled:.2f}."


def said_of_pairs_of_layers(frame: pd.DataFrame) -> str | None:
    """The layer that tells most about a later one, if one and a half times what shuffled tokens tell."""
    clear = (frame["information"] >= HALF_MORE * frame["shuffled"]) & (frame["above"] >= BITS)
    if not clear.any():
        return None
    row = one_row(frame, frame.loc[clear, "above"].idxmax())
    bits = f"{row.information:.2f} bits; with shuffled tokens, {row.shuffled:.2f}"
    return f"Of all layers, layer {row.from_layer} tells most about a later one, layer {row.to_layer}: {bits}."
