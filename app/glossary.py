"""The words of the field, one sentence each: on every chart, for the words that it uses."""

import re

GLOSSARY = {
    "expert": "one of several feed-forward blocks, side by side in a layer; a token runs through a few of them.",
    "token": "a piece of text that the model reads at once: a word, a part of one, a sign.",
    "layer": "one of the steps that a token runs through, each with a router and experts of its own.",
    "embedding": "the table that turns a token into numbers, or numbers into the next token.",
    "router": "the small block before the experts that scores them for a token and chooses.",
    "first choice": "the chosen expert with the highest weight.",
    "assignment": "one token at one expert of one layer: with top-2, a token makes two in each layer.",
    "load": "an expert's share of the assignments of its layer; the loads of a layer sum to 1.",
    "even share": "the load that each expert would have if all had the same: 1 / number of experts.",
    "weight": "the factor on an expert's output, as the model applies it.",
    "logits": "what the router computes for each expert before they become probabilities.",
    "probability": "the router's score for an expert, scaled so that those of a layer sum to 1.",
    "entropy": "how undecided a distribution is: 0 where one has it all, highest where all are alike.",
    "active parameters": "those that one token runs through: its chosen experts and everything else.",
    "touched": "run through by at least one of the tokens.",
    "lift": "how many times more often than chance: 1 is chance.",
    "by lot": "what choosing at random would show.",
    "shuffled": "the same numbers with what belongs together dealt out at random: what luck alone shows.",
    "bits": "information: one bit halves the possibilities.",
    "nats": "information with natural logarithms: 1 nat is 1.44 bits.",
    "auxiliary loss": "a term of training that pushes routers to share out their tokens evenly.",
    "z-loss": "a term of training that keeps the routers' logits small.",
    "device": "a GPU that holds some of a layer's experts when a model is served.",
    "copies": "experts that are kept on several devices, to share their work.",
    "held-out": "not seen when the plan was made.",
    "label": "a class that a text was given: its language, its topic, its domain.",
}
PATTERNS = {term: re.compile(rf"\b{re.escape(term)}s?\b", re.IGNORECASE) for term in GLOSSARY}


def explained_terms(*texts: str) -> str | None:
    """The terms of the glossary that stand in these texts, as Markdown; None where there are none."""
    whole = " ".join(texts)
    found = [f"**{term}**: {meaning}" for term, meaning in GLOSSARY.items() if PATTERNS[term].search(whole)]
    return "\n\n".join(found) or None
