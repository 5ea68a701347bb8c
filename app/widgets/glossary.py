"""The field's terms, explained in one sentence each: every chart shows those that it uses."""

import re

GLOSSARY = {
    "expert": "one of several feed-forward blocks side by side in a layer; a token runs through only a few of them.",
    "token": "a piece of text that the model reads as one unit: a word, part of a word, a punctuation mark.",
    "layer": "one of the steps that a token runs through; unless it is dense, it has a router and experts of its own.",
    "embedding": "the table that turns a token into numbers, or numbers into the next token.",
    "router": "the small block in front of the experts that scores them for a token and chooses some.",
    "first choice": "the chosen expert with the highest weight.",
    "assignment": "one token sent to one expert in one layer: with top-2, a token makes two in each layer.",
    "load": "an expert's share of the assignments in its layer; the loads of a layer sum to 1.",
    "uniform": "the same for every expert: the uniform load is 1 / number of experts.",
    "weight": "the factor by which the model multiplies an expert's output.",
    "logits": "the router's raw scores for the experts, before they become probabilities.",
    "probability": "the router's score for an expert, scaled so that the scores of a layer sum to 1.",
    "entropy": "how undecided a distribution is: 0 if one option has it all, highest if all are equally likely.",
    "active parameters": "those that one token runs through: its chosen experts and everything else.",
    "touched": "run through by at least one of the tokens.",
    "lift": "how many times as often as chance would give: 1 is chance.",
    "at random": "with every choice equally likely: what chance alone would show.",
    "shuffled": "measured again after mixing up at random what belongs together: what luck alone shows.",
    "bits": "the unit of information: one bit halves the possibilities.",
    "nats": "information measured with natural logarithms: 1 nat is 1.44 bits.",
    "auxiliary loss": "a term in the training loss that pushes routers to spread their tokens evenly.",
    "balance loss": "the auxiliary loss that is least where all experts of a layer get the same.",
    "collapse": "that a router sends nearly everything to a few experts, and the others learn nothing.",
    "dead expert": "an expert that no token is sent to.",
    "capacity": "how many tokens an expert takes from a batch at most; the capacity factor is its multiple of the "
    "uniform load.",
    "selection bias": "a number for each expert that is added to its score for choosing, and not to its weight; "
    "training moves it to balance the load without an auxiliary loss.",
    "z-loss": "a term in the training loss that keeps the routers' logits small.",
    "device": "a GPU that holds some of a layer's experts when a model is served.",
    "copies": "experts that are kept on several devices, so that these share the work.",
    "held-out": "not seen when the plan was made.",
    "label": "a class given to a text: its language, its topic, its domain.",
}
PATTERNS = {term: re.compile(rf"\b{re.escape(term)}s?\b", re.IGNORECASE) for term in GLOSSARY}


def explained_terms(*texts: str) -> str | None:
    """The terms of the glossary that stand in these texts, as Markdown; None where there are none."""
    whole = " ".join(texts)
    found = [f"**{term}**: {meaning}" for term, meaning in GLOSSARY.items() if PATTERNS[term].search(whole)]
    return "\n\n".join(found) or None
