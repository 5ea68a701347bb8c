"""The history as one story: about ten steps, each from what the one before it left over.

The words are here, and in them places for what the traces say; what is seen is in `story_seen`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from moeviz.history import story_seen
from moeviz.history.story_seen import Seen
from moeviz.history.systems import EXHIBITS, FOLDERS

MOST_WORDS = 60  # of a step
PARTS = ("What went wrong", "What was tried", "See it happen", "What was left over")


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the story. Its four parts quote what is seen: "{share}" is a place for it."""

    year: str
    title: str
    page: str  # of the app, as its menu has it
    wrong: str
    tried: str
    see: str
    left: str
    new: str  # what is drawn here for the first time
    seen: Callable[[], Seen]

    def told(self, seen: Seen) -> tuple[str, ...]:
        """The four parts, in the order of PARTS, with what was seen."""
        parts = (self.wrong, self.tried, self.see, self.left)
        return tuple(part.format_map(seen.quoted) for part in parts)


def _page(system: str) -> str:
    return EXHIBITS[FOLDERS[system]].title


STEPS = (
    Step(
        "1991",
        "Experts that compete",
        _page("local-experts"),
        wrong="One network struggles where different cases ask for different answers.",
        tried="Small experts compete for the cases; a gate learns whose answer counts.",
        see="For {input}, all {experts} are computed, and expert {best} counts {share}. {idle} of them never lead.",
        left="Learning takes {epochs:,} passes, with a step size found by trial.",
        new="A box is an expert. Filled: it is computed for this input. The bar in it: how much its answer counts.",
        seen=story_seen.compete,
    ),
    Step(
        "1994",
        "A tree of gates",
        _page("hierarchical"),
        wrong="Gradient descent is slow, and its step size has to be found.",
        tried="Gates above gates make a tree, and expectation maximisation fits it without any step size.",
        see="{Input}: the root weighs two branches, and the gates below weigh {experts} experts. All are computed.",
        left="A case is still a point; speech is a sequence.",
        new="The upper row: two branches, each above its experts.",
        seen=story_seen.tree,
    ),
    Step(
        "1996",
        "Experts of another kind",
        _page("hmm-experts"),
        wrong="Utterances have any length; no expert so far can hear one out.",
        tried="Each expert is a hidden Markov model of whole sequences; the gate is Bayes' rule.",
        see="{Input}: the likeliest of {experts} experts has {first} after one frame, {last} after all {frames}.",
        left="All learn from everything, which not every expert can afford.",
        new="The rows: one gate, at three moments.",
        seen=story_seen.sequences,
    ),
    Step(
        "2002",
        "Room for so many",
        _page("svm-experts"),
        wrong="A support vector machine's training time grows at least with the square of its examples.",
        tried="Many machines each learn from a part; a full one sends examples on.",
        see="{Input}: expert {first} weighs highest but is full at {capacity}, so expert {given} learns from it.",
        left="Only learning is limited: to answer, all {experts} are computed.",
        new="Below a box: how many digits it learns from, inside the outline of its capacity. The cross: full, so the "
        "digit is sent on. Orange: a weight below 0.",
        seen=story_seen.capacity,
    ),
    Step(
        "2013",
        "A second layer",
        _page("deep-mixture"),
        wrong="One mixture divides its cases only once.",
        tried="A gate in each of two layers: {experts} and {experts} experts make {paths} paths. A constraint holds "
        "back an expert that leads.",
        see="In a run without it, expert {greedy} takes {share} of the work of {at}.",
        left="Every box is filled: more experts cost more.",
        new="Below a box: its share of the work on all digits. The dashes: a uniform share.",
        seen=story_seen.layers,
    ),
    Step(
        "2013 and 2015",
        "Boxes go dark",
        _page("conditional"),
        wrong="Every expert is computed each time, so more experts cost more.",
        tried="Each block of a layer is switched on or off by itself; what is off need not be computed.",
        see="{Input} switches {on} of {experts} blocks on; the mean is {mean}.",
        left="A switch has no gradient: it is learned by trial, or with a made-up one.",
        new="An empty box is not computed.",
        seen=story_seen.switches,
    ),
    Step(
        "2017",
        "Two of sixteen",
        _page("sparsely-gated"),
        wrong="Switches have no gradient; whoever is picked learns, and is picked again.",
        tried="Keep the best {k} by noisy scores: their weights have gradients. Two losses keep all busy.",
        see="{Input} goes to {k} of {experts}. Without the losses, one expert gets {least_without} of {words} words; "
        "with them, each at least {least}.",
        left="Across machines, every choice is a message.",
        new="Below a box: all the words that it gets. The dashes: a uniform load.",
        seen=story_seen.top_two,
    ),
    Step(
        "2021",
        "One of eight",
        _page("switch"),
        wrong="Each choice is a message to another machine, where an expert's work has to fit.",
        tried="One expert per token, and a capacity for each.",
        see="Early, expert {expert} takes {input}. Later, full at {capacity}, it drops the same word, one of {dropped} "
        "in {words}.",
        left="A dropped word has no expert, and the others have only one.",
        new="Below a box: the words so far, inside the outline of its capacity. The cross: full, so it is dropped.",
        seen=story_seen.dropped,
    ),
    Step(
        "2023",
        "Two of eight, in every layer",
        _page("mixtral"),
        wrong="One expert is a single opinion, and a dropped token has none.",
        tried="Mixtral, with open weights: {k} of {experts} experts in each of 32 layers; of {total} billion "
        "parameters, {active} are active.",
        see="Drawn is a small model of ours, of the same architecture, not Mixtral: {layers} layers, {input}.",
        left="{k} of {experts}: only {pairs} pairs of large experts.",
        new="Each row: a layer.",
        seen=story_seen.every_layer,
    ),
    Step(
        "2024 and later",
        "Many small experts",
        "Timeline",
        wrong="Few large experts leave few combinations.",
        tried="Many small ones: OLMoE picks {k} of {experts}; DeepSeek-V3 picks {v3_k} of {v3_experts}, beside a "
        "shared expert that every token uses.",
        see="How often each of OLMoE's {experts} was chosen, as published. No token of it ships here, so none is "
        "filled.",
        left="All of them have to be held in memory.",
        new="Below a box: the share of the tokens that chose it. The dashes: uniform.",
        seen=story_seen.fine,
    ),
)

PAYOFF = Step(
    "Today",
    "Why anybody does this",
    _page("dense"),
    wrong="A dense network that holds more computes more.",
    tried="Experts add parameters; a token still has two.",
    see="At the same compute, our {experts} experts reach a loss of {sparse}, a dense network {dense}; two experts, "
    "which hold no more, {two}. Seeds differ by {seeds}.",
    left="Ours are too small to show what parameters bring. Mixtral uses {compute} of its {total} billion.",
    new="",
    seen=story_seen.payoff,
)
