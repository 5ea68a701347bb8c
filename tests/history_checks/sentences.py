"""Do the sentences of the story, the timeline and the exhibits say what the data that they stand under show?

Each claim is computed from the same data as its sentence, and asks for what the sentence says in words. Its control is
other data, of which the sentence would be wrong.
"""

import sys
from functools import cache
from operator import eq, ge, gt, lt
from statistics import fmean

import numpy as np
import pandas as pd

from history_checks.claims import NOT_PRINTED, Claim, seeds
from history_checks.hierarchical_1994 import TWO_CUTS
from history_checks.negative_controls import Control
from moeviz.embedded.recorded_routing import study_means
from moeviz.history.conditional_computation_2015.exhibit import SWEEP
from moeviz.history.dense_contrast.exhibit import shipped_sweep as dense_sweep
from moeviz.history.hierarchical_1994.exhibit import EM, FLAT, GRADIENT, TREE, ended, shipped_error_by_shape
from moeviz.history.hmm_experts_1996.exhibit import shipped_accuracies
from moeviz.history.local_experts_1991 import model as model_1991
from moeviz.history.local_experts_1991.exhibit import MEASURED, PAPER, STAND_IN, shipped_table_1
from moeviz.history.local_experts_1991.model import train, train_network
from moeviz.history.phone_book.runs import TASKS, book_means, book_table
from moeviz.history.shared.datasets import stand_in
from moeviz.history.sparsely_gated_2017.exhibit import shipped_table
from moeviz.history.story import Scene, layers, top_two, twins, unbalanced_layers, unbalanced_two
from moeviz.history.svm_experts_2002.exhibit import swept
from moeviz.history.switch_2021.exhibit import shipped_sweep as switch_sweep
from moeviz.history.systems import shipped_trace
from moeviz.history.timeline.chart import experts_at_work, turns
from moeviz.metrics.locality import MIXTRAL_LAYERS, MIXTRAL_TABLE_5
from moeviz_app.widgets.components.history import collapse_runs

HERE = sys.modules[__name__]
FEW = TASKS["rule"]
CHANCE = 12.5  # % of neighbours with one of 8 experts, at random


def claims(quick: bool = False, seed: int = 0) -> list[Claim]:
    """All sentences: of 1991, the timeline, Mixtral, the phone book, the garden, the story and the exhibits."""
    parts = (of_1991, of_timeline, of_mixtral, of_phone_book, of_garden, of_story, of_exhibits)
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
        _claim("vowels that one network of equal size gets right, share", rival, above=0.85),
        _claim("vowels right, 4 experts - one network of equal size", right - rival, above=0, below=0.05),
        _claim("passes, 4 experts / one network of equal size", ratio, below=0.95),
    ]


def of_timeline(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Experts in a layer: fewer in Mixtral than before it, and more since."""
    most, few, many = turns(_systems())["experts"]
    share = turns(_systems()).eval("at_work / experts")
    others = share.iloc[1] / share.iloc[[0, 2]].max()
    return [
        _claim("experts in a layer, Mixtral / most before it", few / most, below=1),
        _claim("experts in a layer, most since Mixtral / Mixtral", many / few, above=1),
        _claim("share at work, Mixtral / lowest of the other two", others, above=1),
    ]


def of_mixtral(quick: bool = False, seed: int = 0) -> list[Claim]:
    """Table 5: more repeats than at random beyond the first layer, and in 6 of 8 kinds of text most in the middle."""
    first = pd.DataFrame({kind: row[:3] for kind, row in _table_5().items()}, index=MIXTRAL_LAYERS)
    middle = int((first.idxmax() == MIXTRAL_LAYERS[1]).sum())
    least = float(first.loc[list(MIXTRAL_LAYERS[1:])].min(axis=None))
    return [
        _claim("kinds of text of which first choices repeat most in the middle layer", middle, exactly=6),
        _claim("lowest share of repeats beyond the first layer, %", least, above=CHANCE),
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
        _claim("a rule: names never seen, dense - 32 experts", end["dense"] - end["32 experts"], above=0.4),
        _claim("a rule: what a dense network as large loses / what experts lose, least", min(falls), above=0.5),
        _claim("a rule: best step of the dense network as large - that of experts, least", min(leads), above=0),
        _claim("a book: remembered, experts apart from the dense network as large, most", apart, below=0.03),
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
        _claim("experts that never had a fact, most", int(runs["never"].max()), exactly=0),
        _claim("dead of 8 with a balance loss or a bias of 0.1, most of ten starts", cured, exactly=0),
        _claim("dead of 8 with nothing, or noise alone, fewest of ten starts", lost, least=5),
        _claim("remembered, nothing - noise 3, means of ten starts", worse, above=0),
        _claim("remembered, no lean - the best cure, means of ten starts", lean, above=0),
    ]


def of_story(quick: bool = False, seed: int = 0) -> list[Claim]:
    """2013: one expert takes a layer. 2017: messages, an idle expert. 2021: late words are dropped. Last: names."""
    with_them, without = (min(scene().drawn["load"][0]) for scene in (_balanced, unbalanced_two))
    held, free = (max(max(of) / sum(of) for of in scene().drawn["load"]) for scene in (_constrained, unbalanced_layers))
    sparse = _balanced().quoted
    lost = _queue()
    place = np.arange(len(lost)) / len(lost)
    pushed, natural = (int(twin.names["holds"].sum()) for twin in _twins())
    told = _study()["information"]
    bits = told["batch", 0.0] / told["window", 0.0]
    return [
        _claim("2017: words of the idlest expert, without the losses / with them", without / with_them, below=0.5),
        _claim("2017: choices that leave their machine, share", sparse["messages"] / sparse["choices"], above=0.9),
        _claim("2013: busiest expert of a layer, free / held back", free / held, above=2),
        _claim("2021: place in the batch, dropped - kept words", place[lost].mean() - place[~lost].mean(), above=0.2),
        _claim("names of experts that hold, pushed over batches / within texts", pushed / natural, above=2),
        _claim("bits about the kind of text, over batches / within texts", bits, above=5),
    ]


def of_exhibits(quick: bool = False, seed: int = 0) -> list[Claim]:
    """What the exhibits say does not come out, or does: of the tables that ship beside them."""
    of = _tables()
    epochs = of["1991"].pivot(index="of", columns="system", values="epochs")
    mine, network = (epochs[name] for name in ("4 experts", "backpropagation, 6 hidden units"))
    ours, printed = mine[STAND_IN] / network[STAND_IN], mine[PAPER] / network[PAPER]
    ends = ended(of["1994"])[EM]
    fast = of["1994"][of["1994"]["squared_error"] <= TWO_CUTS].groupby(["way", "shape"])["passes"].min()
    passes = {way: fast.get((way, TREE), np.inf) for way in (EM, GRADIENT)}
    found = of["1996"].groupby("assignment")["found"].mean()
    machines = of["2002"]
    empty = (100 * machines[machines["shuffled"]].groupby("experts")["gated"].mean()).round()
    rbf = machines[machines["kernel"] == "rbf"].groupby("experts")[["single", "gated"]].mean()
    worse = (rbf["gated"] - rbf["single"]).min()
    gated = of["2015"].groupby(["network", "target"])["error"].mean()
    behind = gated["learned policy", 1 / 16] - gated["dense, 32 units", 1.0]
    losses = of["2017"].set_index(["importance", "load", "seed"]).sort_index()
    uneven = losses["max / mean load"]
    gain = losses["perplexity"].xs((0.1, 0.1)) - losses["perplexity"].xs((0.0, 0.0))
    turned_round = int((uneven.xs((0.01, 0.01)) <= uneven.xs((0.1, 0.1))).sum())
    dense = of["2021"][of["2021"]["dense"]].groupby("seed")["perplexity"].first()
    switch = of["2021"][of["2021"]["aux_weight"] == 0.01].groupby(["capacity_factor", "seed"])["perplexity"].first()
    lower = 1 - switch / dense.reindex(switch.index, level="seed")
    last = of["2023"][of["2023"]["step"] == of["2023"]["step"].max()]
    kinds = last.pivot(index="seed", columns="kind", values="perplexity")
    pairs = (("sparse", "as fast"), ("as large", "sparse"))
    wins, beaten = (int((kinds[one] < kinds[other]).sum()) for one, other in pairs)
    eight = epochs["8 experts"][STAND_IN] / mine[STAND_IN]
    return [
        _claim("1991: passes, mixture / network", ours, above=printed, below=1),
        _claim("1991: passes, 8 experts / 4", eight, least=1),
        _claim("1991: passes, measured vowels / paper", mine[MEASURED] / mine[PAPER], above=0.6, below=0.7),
        _claim("1994: error of the tree - of one gate over all", ends[TREE] - ends[FLAT], least=-0.005),
        _claim("1994: passes, expectation maximisation / gradient", passes[EM] / passes[GRADIENT], below=0.2),
        _claim("1996: Smyth's models found, soft - hard", found["soft"] - found["hard"], above=0.5),
        _claim("2002: error of 4 experts that know nothing, %", empty[4], exactly=18),
        _claim("2002: error of 32 experts that know nothing, %", empty[32], exactly=8),
        _claim("2002: rbf, gated mixtures - one machine, least", worse, above=0),
        _claim("2015: error at 1/16, policy - dense of 32 units", behind, above=0),
        _claim("2017: perplexity with both losses - without", gain.mean(), above=-1, below=1),
        _claim("2017: seeds in which 0.01 is no less even than 0.1", turned_round, exactly=1),
        _claim("2021: perplexity below the twin's by 1 to 3%, off 2% by most", (lower - 0.02).abs().max(), below=0.01),
        _claim("2023: seeds in which the mixture beats the network as fast", wins, exactly=1),
        _claim("2023: seeds in which the network as large beats the mixture", beaten, exactly=3),
    ]


def _claim(
    what: str,
    ours: float,
    above: float | None = None,
    below: float | None = None,
    least: float | None = None,
    exactly: float | None = None,
) -> Claim:
    """Claim that a figure of a sentence is within limits; `above` and `below` are not reached themselves."""
    limits = {"above": (above, gt), "below": (below, lt), "at least": (least, ge), "exactly": (exactly, eq)}
    asked = {word: row for word, row in limits.items() if row[0] is not None}
    said = ", ".join(f"{word} {limit:g}" for word, (limit, _) in asked.items())
    return Claim(what, float(ours), NOT_PRINTED, said, all(holds(ours, limit) for limit, holds in asked.values()))


_systems, _means, _garden, _balanced = experts_at_work, cache(lambda: book_means(book_table())), collapse_runs, top_two
_constrained, _twins, _study = layers, twins, study_means


def _queue() -> np.ndarray:
    """True for words that are dropped, in the order of the batch."""
    return shipped_trace("switch").experts[0, :, 0] < 0


@cache
def _tables() -> dict[str, pd.DataFrame]:
    """What ships beside the systems, by year."""
    return {
        "1991": shipped_table_1(),
        "1994": shipped_error_by_shape(),
        "1996": shipped_accuracies(),
        "2002": swept(),
        "2015": pd.read_csv(SWEEP),
        "2017": shipped_table(),
        "2021": switch_sweep(),
        "2023": dense_sweep(),
    }


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


def _upside_down() -> dict[str, pd.DataFrame]:
    """Tables in which what is high is low: each measurement less the largest and the smallest of its column."""
    kept = ("seed", "seeds", "passes", "experts", "room", "step", "target", "importance", "load", "capacity_factor")
    kept += ("aux_weight", "dense", "shuffled")
    turned = {}
    for year, table in _tables().items():
        values = [name for name in table.select_dtypes("number") if name not in kept]
        turned[year] = table.assign(**{name: table[name].max() + table[name].min() - table[name] for name in values})
    turned["2002"] = _tables()["2002"].rename(columns={"single": "gated", "gated": "single"})
    turned["2017"] = turned["2017"].assign(perplexity=lambda runs: runs["perplexity"] - 50 * runs["importance"])
    turned["1996"] = turned["1996"].assign(found=~turned["1996"]["found"])
    return turned


def _one_hidden_unit(data, hidden: int, seed: int, right=train_network):
    return right(data, 1, seed)


def _mixture_alone(data, hidden: int, seed: int, right=train):
    return right(data, seed=seed)


def _at_home() -> Scene:
    scene = top_two()
    return scene._replace(quoted=scene.quoted | {"messages": 0})


def _balance_exchanged() -> pd.DataFrame:
    return study_means().rename(index={"batch": "window", "window": "batch"}, level=0)


_UPSIDE_DOWN = _upside_down()
EXHIBITS = ("1991: ", "1994: ", "1996: ", "2002: ", "2015: ", "2017: p", "2017: s", "2021: p", "2023: ")
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
    Control("2017 without the losses", (HERE, "_balanced", unbalanced_two), ("2017: words",), of_story),
    Control("all experts on one machine", (HERE, "_balanced", lambda: _at_home()), ("leave their machine",), of_story),
    Control("nobody held back", (HERE, "_constrained", unbalanced_layers), ("2013: busiest",), of_story),
    Control("first come, last served", (HERE, "_queue", lambda right=_queue: ~right()), ("2021: place",), of_story),
    Control("twins exchanged", (HERE, "_twins", lambda: twins()[::-1]), ("names of experts",), of_story),
    Control("balance exchanged", (HERE, "_study", lambda: _balance_exchanged()), ("bits about",), of_story),
    Control("tables upside down", (HERE, "_tables", lambda: _UPSIDE_DOWN), EXHIBITS, of_exhibits),
)
