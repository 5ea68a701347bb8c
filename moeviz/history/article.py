"""The article that moeviz grew from, point by point: which page shows which sentence at work, and what it got wrong.

*The History of Mixture of Experts*, 26 April 2024. Short quotations of it; what is said of them is ours.
"""

from typing import NamedTuple

import pandas as pd


class Point(NamedTuple):
    """A sentence of the article, and what to look at."""

    says: str  # in the article's words
    page: str  # of the app, as its menu has it
    look: str  # what makes it visible there


class Correction(NamedTuple):
    """What the article says, what is true, and the source of that."""

    says: str
    rather: str
    source: str


POINTS = (
    Point(
        "a consortium of specialized networks, each an “expert” adept at handling specific subtasks",
        "Local experts",
        "Move the epoch from 0 to the end: the lines move apart, and each vowel comes to belong to one expert.",
    ),
    Point(
        "A gating network, acting as a conductor, directed the input data to the most suitable expert.",
        "Local experts",
        "The colour of a mark shows where the gate sends it; the load by vowel says the same in numbers.",
    ),
    Point(
        "These powerful classification algorithms were employed as experts in some MoEs architectures",
        "SVM experts",
        "Weak linear machines and a gater beat a single machine; each has the capacity for only its share of the "
        "examples.",
    ),
    Point(
        "These statistical models, particularly adept at handling sequential data, were utilized as experts",
        "HMM experts",
        "Choose an utterance: frame by frame, the gate settles on one of nine speaker models.",
    ),
    Point(
        "training the gating network to effectively route data proved difficult",
        "Deep mixture",
        "Train without the balance constraint: in most runs one expert takes nearly everything.",
    ),
    Point(
        "experts at lower layers can focus on specific features, while higher-level MoEs layers can combine this",
        "Deep mixture",
        "The first layer responds to where a digit is, the second to what it is.",
    ),
    Point(
        "dynamically activating or deactivating network components based on the input",
        "Conditional computation",
        "Each kind of digit switches on different blocks, and most blocks stay off.",
    ),
    Point(
        "This groundbreaking work introduced sparsity, ensuring that only a small subset of experts was activated",
        "Sparsely gated",
        "Two of sixteen experts per word; the table shows what happens if no loss balances them.",
    ),
    Point(
        "this work faced challenges like high communication costs and training instabilities",
        "Placement",
        "The load of each device, and how uneven the loads are under each placement of a trace's experts.",
    ),
    Point(
        "the open-sourced Switch Transformers boasting 1.6 trillion parameters",
        "Switch",
        "One expert per token; lower the capacity factor and more tokens are dropped. The count is on the Timeline "
        "page.",
    ),
    Point(
        "MoEs allows only relevant parts of the LLM to be activated for a specific task",
        "Explore",
        "Type a prompt to see which experts each token activates, layer by layer.",
    ),
    Point(
        "using eight-expert MoEs, where only two experts are used for each token",
        "Mixtral",
        "What was published of its routing, the exact counts, and a small model of ours with the same architecture.",
    ),
    Point(
        "This requires less compute compared to using all eight experts or a similarly-sized fully dense model.",
        "Dense contrast",
        "The same network with two of eight experts, with all of them, and without any, side by side.",
    ),
    Point(
        "Given that tokens are batched together in training, most if not all experts are used.",
        "Coverage",
        "How soon a text has used every expert: 32 tokens with two of eight each nearly always need all, if chosen at "
        "random; the tokens of one text repeat their experts, and take longer.",
    ),
    Point(
        "the same amount of memory capacity compared to a dense model of the same size",
        "Dense contrast",
        "Total parameters, which have to be held in memory, next to active ones, which a token computes with.",
    ),
)

CORRECTIONS = (
    Correction(
        "the seminal paper by Robert Jacobs and Geoffrey Hinton",
        "There are four authors: Jacobs, Jordan, Nowlan and Hinton.",
        "Neural Computation 3(1):79-87, 1991",
    ),
    Correction(
        "they were doing maths on its name",
        "The name cannot be multiplied out: the total is 46.7 billion, since the experts share attention and "
        "embeddings.",
        "counted from the configuration: 46,702,792,704",
    ),
    Correction(
        "12 billion parameters used of a total 46 billion parameters",
        "12.9 of 46.7 billion; the paper rounds to 13 and 47.",
        "arXiv 2401.04088; counted: 12,879,925,248 of 46,702,792,704",
    ),
    Correction(
        "an architecture paradigm which they introduced for this model: Mixture of experts",
        "It is from 1991, as the article itself says later; language models of this size have used it since 2017.",
        "arXiv 1701.06538",
    ),
    Correction(
        "Yoshua Bengio’s work on conditional computation",
        "These are two works: gates with a straight-through gradient, by Yoshua Bengio, Léonard and Courville (2013), "
        "and blocks switched by a policy, by Emmanuel Bengio, Bacon, Pineau and Precup (2015).",
        "arXiv 1308.3432; arXiv 1511.06297",
    ),
    Correction(
        "scaling MoEs to a massive 137B parameter Long Short-Term Memory (LSTM) network",
        "The 137.6 billion parameters are those of the mixture between two small LSTMs, in a language model. It was "
        "worse than the one with 68.8 billion: perplexity 29.2 against 28.9.",
        "arXiv 1701.06538, Table 8",
    ),
    Correction(
        "primarily focused on machine translation tasks",
        "The largest models were language models; the translation models had 8.7 billion parameters.",
        "arXiv 1701.06538, section 5",
    ),
    Correction(
        "This groundbreaking work introduced sparsity",
        "Sparse gates had existed since 2013 and 2015; what was new was to make them pay off at that size.",
        "arXiv 1308.3432; arXiv 1511.06297",
    ),
)


def corrections() -> pd.DataFrame:
    """What the article got wrong. Columns: the article says, in fact, source, all str."""
    return pd.DataFrame(CORRECTIONS).rename(columns={"says": "the article says", "rather": "in fact"})
