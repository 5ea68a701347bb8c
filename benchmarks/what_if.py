"""Does an expert matter to the kind of text that uses it? The loss of every domain without the expert it uses most.

    python -m benchmarks.what_if [--domains N]

On the embedded model and its evaluation set: for each domain the expert whose share of the domain's tokens is furthest
above its share of the others' is muted, once with the router's next best in its place and once with nothing. Printed
are changes of loss in nats a token: of that domain, and of the others.
"""

import argparse
from statistics import mean

from moeviz.analyses.what_if import what_if
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.interventions.mute import Mute
from moeviz.capture.models.load import load_model
from moeviz.embedded.evaluation import DOMAINS, evaluation_set
from moeviz.metrics.specialization import load_by_label

CHARACTERS = 600  # of each text


def favourite(recorded, label: str) -> tuple[int, int, float]:
    """Layer and expert whose share of the label's assignments is furthest above the share of the others."""
    load = load_by_label(recorded)
    mine = load[load["label"] == label].set_index(["layer", "expert"])["share"]
    others = load[load["label"] != label].groupby(["layer", "expert"])["share"].mean()
    layer, expert = (mine - others).idxmax()
    return int(layer), int(expert), float(mine[layer, expert])


def loss_change(model, text: str, mute: Mute) -> float:
    """Nats a token that a text loses."""
    effect = what_if(model, text, mute).effect
    return float((effect["loss_changed"] - effect["loss"]).mean())


def main() -> None:
    """Run and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.what_if", description=__doc__.split("\n")[0])
    parser.add_argument("--domains", type=int, default=len(DOMAINS), help="so many, from the first")
    count = parser.parse_args().domains
    model = load_model()
    first = {text.label: text.text[:CHARACTERS] for text in reversed(evaluation_set())}
    texts = {label: first[label] for label in DOMAINS.values()}
    recorded = trace_corpus(model, texts.items())
    print("| muted for | layer | expert | its share | that domain | others, mean | others, most | nothing instead |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    won = 0
    for label in list(texts)[:count]:
        layer, expert, share = favourite(recorded, label)
        mute = Mute({layer: (expert,)})
        changes = {name: loss_change(model, text, mute) for name, text in texts.items()}
        mine, others = changes.pop(label), list(changes.values())
        silent = loss_change(model, texts[label], Mute({layer: (expert,)}, reroute=False))
        won += mine > mean(others)
        figures = f"{mine:+.3f} | {mean(others):+.3f} | {max(others):+.3f} | {silent:+.3f}"
        print(f"| {label} | {layer} | {expert} | {share:.0%} | {figures} |", flush=True)
    print(f"\n{won} of {count} domains lose more by it than the others do.")


if __name__ == "__main__":
    main()
