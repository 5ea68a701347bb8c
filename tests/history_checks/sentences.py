"""Do the sentences of the story, the timeline and the exhibits say what the data that they stand under show?

Each claim is computed from the same data as its sentence, and asks for what the sentence says in words. Its control is
other data, of which the sentence would be wrong.
"""

import sys
from functools import cache
from statistics import fmean

import pandas as pd

from history_checks.claims import NOT_PRINTED, Claim, seeds
from history_checks.negative_controls import Control
from moeviz.history.local_experts_1991 import model as model_1991
from moeviz.history.local_experts_1991.model import train, train_network
from moeviz.history.phone_book.runs import TASKS, book_means, book_table
from moeviz.history.shared.datasets import stand_in
from moeviz.history.story import top_two, unbalanced_two
from moeviz.history.timeline.chart import experts_at_work, turns
from moeviz.metrics.locality import MIXTRAL_LAYERS, MIXTRAL_TABLE_5
from moeviz_app.widgets.components.history import collapse_runs

HERE = sys.modules[__name__]
FEW = TASKS["rule"]
CHANCE = 12.5  # % of neighbours with one of 8 experts, at random


def claims(quick: bool = False, seed: int = 0) -> list[Claim]:
    """All sentences: of 1991, of the timeline, of Mixtral, of the phone book, of the garden, and of 2017."""
    parts = (of_1991, of_timeline, of_mixtral, of_phone_book, of_garden, of_story)
    return [claim for part in parts for claim in part(quick, seed)]


def of_1991(quick: bool = False, seed: int = 0) -> list[Claim]:
    """One network of the mixture's size can do it, is slower, and ends hardly worse."""
    runs = seeds(seed, 2 if quick else 5)
    mixtures = [train(stand_in(), seed=each) for each in runs]
    networks = [train_network(stand_in(), 6, each) for each in runs]
    right, rival = (fmean(run.train_accuracy for run in kind) for kind in (mixtures, networks))
    ratio = fmean(run.epochs or model_1991.MAX_EPOCHS for run in mixtures)
    ratio /= fmean(run.epochs or model_1991.MAX_EPOCHS for run in networks)
    return [
        _claim("vowels that one network of equal size gets right, share", rival, "above 0.85", rival > 0.85),
        _claim(
            "vowels right, 4 experts - one network of equal size", right - rival, "0 to 0.05", 0 < right - rival < 0.05
        ),
        _claim("passes, 4 experts / one network of equal size", ratio, "below 0.95", ratio < 0.95),
    ]


def of_timeline(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Experts in a layer: fewer in Mixtral than before it, and more since."""
    most, few, many = turns(_systems())["experts"]
    share = turns(_systems()).eval("at_work / experts")
    return [
        _claim("experts in a layer, Mixtral / most before it", few / most, "below 1", few < most),
        _claim("experts in a layer, most since Mixtral / Mixtral", many / few, "above 1", many > few),
        _claim(
            "share at work, Mixtral / lowest of the other two",
            share.iloc[1] / share.iloc[[0, 2]].max(),
            "above 1",
            share.iloc[1] > share.iloc[[0, 2]].max(),
        ),
    ]


def of_mixtral(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Table 5: more repeats than at random beyond the first layer, and in 6 of 8 kinds of text most in the middle."""
    first = pd.DataFrame({kind: row[:3] for kind, row in _table_5().items()}, index=MIXTRAL_LAYERS)
    middle = int((first.idxmax() == MIXTRAL_LAYERS[1]).sum())
    least = float(first.loc[list(MIXTRAL_LAYERS[1:])].min(axis=None))
    return [
        _claim(
            "kinds of text of which first choices repeat most in the middle layer", middle, "exactly 6", middle == 6
        ),
        _claim("lowest share of repeats beyond the first layer, %", least, f"above {CHANCE}", least > CHANCE),
    ]


def of_phone_book(quick: bool = False, seed: int = 0) -> list[Claim]:
    """A rule: more weights learn it worse, most of that is size, and on their way large dense networks were better."""
    rule = _means().query("part == 'rule' and facts == @FEW").set_index("name")
    end, best = rule["share"], rule["best"]
    larges = [(f"{n} experts", f"dense, as large as {n} experts") for n in (8, 32)]
    falls = [(end["dense"] - end[large]) / (end["dense"] - end[experts]) for experts, large in larges]
    leads = [best[large] - best[experts] for experts, large in larges]
    book = _means().query("part in ('book', 'controls')").set_index("name")["share"]
    apart = max(abs(book[experts] - book[large]) for experts, large in larges)
    return [
        _claim(
            "a rule: names never seen, dense - 32 experts",
            end["dense"] - end["32 experts"],
            "above 0.4",
            end["dense"] - end["32 experts"] > 0.4,
        ),
        _claim(
            "a rule: what a dense network as large loses / what experts lose, least",
            min(falls),
            "above 0.5",
            min(falls) > 0.5,
        ),
        _claim(
            "a rule: best step of the dense network as large - that of experts, least",
            min(leads),
            "above 0",
            min(leads) > 0,
        ),
        _claim(
            "a book: remembered, experts apart from the dense network as large, most", apart, "below 0.03", apart < 0.03
        ),
    ]


def of_garden(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Eight experts: all begin alive; nothing and noise alone lose most; a loss and a bias lose none."""
    runs = _garden()
    dead, remembered = runs.groupby("arm")["dead"], runs.groupby("arm")["remembered"].mean()
    cured = int(max(dead.max()[["balance loss 0.1", "selection bias 0.1"]]))
    lost = int(min(dead.min()[["nothing", "noise 1", "noise 3"]]))
    worse = remembered["nothing"] - remembered["noise 3"]
    lean = remembered["nothing, no lean"] - remembered.drop("nothing, no lean").max()
    return [
        _claim("experts that never had a fact, most", int(runs["never"].max()), "0", runs["never"].max() == 0),
        _claim("dead of 8 with a balance loss or a bias of 0.1, most of ten starts", cured, "0", cured == 0),
        _claim("dead of 8 with nothing, or noise alone, fewest of ten starts", lost, "at least 5", lost >= 5),
        _claim("remembered, nothing - noise 3, means of ten starts", worse, "above 0", worse > 0),
        _claim("remembered, no lean - the best cure, means of ten starts", lean, "above 0", lean > 0),
    ]


def of_story(quick: bool = False, seed: int = 0) -> list[Claim]:
    """2017: without the losses an expert is nearly idle."""
    with_them, without = (min(scene().drawn["load"][0]) for scene in (_balanced, unbalanced_two))
    what = "2017: words of the idlest expert, without the losses / with them"
    return [_claim(what, without / with_them, "below 0.5", without < 0.5 * with_them)]


def _claim(what: str, ours: float, asked: str, holds: bool) -> Claim:
    return Claim(what, float(ours), NOT_PRINTED, asked, bool(holds))


_systems, _means, _garden, _balanced = experts_at_work, cache(lambda: book_means(book_table())), collapse_runs, top_two


def _table_5() -> dict[str, tuple[float, ...]]:
    return MIXTRAL_TABLE_5


# Other data, of which the sentences would be wrong.


def _climbing() -> pd.DataFrame:
    frame = experts_at_work()
    return frame.assign(experts=sorted(frame["experts"]), at_work=sorted(frame["at_work"]))


def _falling() -> pd.DataFrame:
    frame = experts_at_work()
    return frame.assign(experts=sorted(frame["experts"], reverse=True))


def _deeper() -> dict[str, tuple[float, ...]]:
    return {kind: tuple(sorted(row[:3])) for kind, row in MIXTRAL_TABLE_5.items()}


def _at_random() -> dict[str, tuple[float, ...]]:
    return dict.fromkeys(MIXTRAL_TABLE_5, (CHANCE,) * 3)


def _as_good() -> pd.DataFrame:
    """Experts do as well as the dense network as fast, at the end and at their best; in a book they forget."""
    means = book_means(book_table())
    sparse = means["name"].isin(("8 experts", "32 experts"))
    share = means["share"].mask(sparse & (means["part"] == "rule"), 0.9).mask(sparse & (means["part"] == "book"), 0.1)
    large = means["name"].str.startswith("dense, as large")
    return means.assign(share=share.mask(large & (means["part"] == "rule"), 0.91), best=means["best"].mask(large, 0.1))


def _exchanged() -> pd.DataFrame:
    """The cures and what is none are exchanged, and an expert is dead from the start."""
    other = {"nothing": "balance loss 0.1", "noise 3": "nothing, no lean", "noise 1": "selection bias 0.1"}
    other |= {cure: none for none, cure in other.items()}
    return collapse_runs().assign(arm=lambda runs: runs["arm"].replace(other), never=1)


def _one_hidden_unit(data, hidden: int, seed: int, right=train_network):
    return right(data, 1, seed)


def _mixture_alone(data, hidden: int, seed: int, right=train):
    return right(data, seed=seed)


CONTROLS = (
    Control(
        "a rival of one hidden unit",
        (HERE, "train_network", _one_hidden_unit),
        ("equal size gets", "vowels right"),
        of_1991,
    ),
    Control("the rival is the mixture", (HERE, "train_network", _mixture_alone), ("passes, 4 experts",), of_1991),
    Control("ever more experts", (HERE, "_systems", _climbing), ("Mixtral / most before",), of_timeline),
    Control(
        "ever fewer experts", (HERE, "_systems", _falling), ("since Mixtral / Mixtral", "share at work"), of_timeline
    ),
    Control("repeats grow with depth", (HERE, "_table_5", _deeper), ("in the middle layer",), of_mixtral),
    Control("repeats as at random", (HERE, "_table_5", _at_random), ("beyond the first layer",), of_mixtral),
    Control("experts do as well", (HERE, "_means", _as_good), ("a rule", "a book"), of_phone_book),
    Control("cures are exchanged", (HERE, "_garden", _exchanged), ("never had", "dead of 8", "remembered"), of_garden),
    Control("2017 without the losses", (HERE, "_balanced", unbalanced_two), ("2017",), of_story),
)
