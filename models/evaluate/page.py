"""The evaluation as a page of Markdown, of one model or of several side by side.

Of one: loss by domain next to byte models, balance and specialisation of every layer, locality, loss by
position, how routing settled, and unedited continuations. It takes a minute or two on two cores.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence

import pandas as pd

from models.evaluate.measures import (
    STRETCH,
    context_gain,
    loss_by_domain,
    loss_by_position,
    mistaken,
    side_by_side,
)
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.models.load import LoadedModel, load_model
from moeviz.capture.run.decoding import Sampling
from moeviz.capture.trace import trace
from moeviz.embedded import EMBEDDED
from moeviz.embedded.evaluation import DOMAINS, evaluation_set
from moeviz.embedded.recorded_routing import traces_over_training
from moeviz.metrics.load import balance
from moeviz.metrics.locality import locality
from moeviz.metrics.routing_over_training import router_saturation
from moeviz.metrics.specialization import label_divergence, label_information
from moeviz.routing_trace import RoutingTrace

APART = 0.1  # bits: from this divergence on, two domains count as routed differently
TITLES = {EMBEDDED: "the embedded model"}
PROMPTS = 3  # a domain, from as many texts of the evaluation set
PROMPT_CHARACTERS = 60
NEW_TOKENS = 40
DRAWN = Sampling(temperature=0.7, top_k=40, seed=0)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the whole evaluation of one model, or a table of several."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate", description="Evaluate models.")
    says = "transformers models, by the names of `load_model` (default: embedded); of several, one table"
    parser.add_argument("models", metavar="MODEL", nargs="*", default=[EMBEDDED], help=says)
    names = parser.parse_args(argv).models
    if len(names) > 1:
        print(f"# Evaluation side by side\n\n{markdown(side_by_side(names, evaluation_set()))}")
        return
    model = load_model(names[0])
    print(f"# Evaluation of {TITLES.get(model.name, model.name)}\n\nWhat `{_command(model.name)}` prints.")
    for section in SECTIONS:
        if section is not formation or model.name == EMBEDDED:  # recorded of that one alone
            print(f"\n{section(model)}", flush=True)


def _command(name: str) -> str:
    return "python -m models.evaluate" + (f" {name}" if name != EMBEDDED else "")


def losses(model: LoadedModel) -> str:
    """Section: loss by domain."""
    frame = loss_by_domain(model, evaluation_set())
    mean = frame.drop(columns=["domain", "tokens", "bytes"]).mean()
    frame = pd.concat([frame, pd.DataFrame([{"domain": "mean of domains", **mean}])])
    frame = frame.rename(
        columns={"nats": "nats/token", "model": "bits/byte", "trigram": "trigram bytes", "unigram": "unigram bytes"}
    )
    counts = {name: frame[name].map(lambda n: "" if pd.isna(n) else f"{n:,.0f}") for name in ("tokens", "bytes")}
    return "## Loss by domain, in bits per byte, next to byte models of each domain\n\n" + markdown(
        frame.assign(**counts)
    )


def routing(model: LoadedModel) -> str:
    """Sections: balance and specialisation of every layer; pairs of domains; locality."""
    recorded = trace_corpus(model, ((text.label, text.text) for text in evaluation_set()))
    return "\n\n".join([_layers(recorded), _pairs(recorded), _locality(recorded)])


def _layers(recorded: RoutingTrace) -> str:
    even, told = balance(recorded), label_information(recorded)
    columns = {
        "layer": even["layer"],
        "busiest / mean load": even["max_over_mean"],
        "dead experts": even["dead_experts"],
        "MI(expert; domain), bits": told["information"],
        "domains shuffled": told["shuffled"],
        "highest of 100 shuffles": told["shuffled_highest"],
        "maximum": told["maximum"],
    }
    return "## Balance and specialisation, layer by layer\n\n" + markdown(pd.DataFrame(columns))


def _pairs(recorded: RoutingTrace) -> str:
    apart = label_divergence(recorded)
    best = apart.loc[apart.groupby(["label", "other"])["divergence"].idxmax()].sort_values("divergence")
    count = int((best["divergence"] > APART).sum())
    shown = pd.concat([best.head(3), best.tail(3)]).rename(columns={"divergence": "JSD, bits", "label": "domain"})
    shown = shown[["domain", "other", "layer", "JSD, bits", "shuffled"]]
    return (
        f"## Domains routed differently\n\nOf {len(best)} pairs of domains, {count} have first choices that differ by "
        f"more than {APART} bit (Jensen-Shannon) in some layer. The three most alike, and the three furthest apart, "
        f"each at the layer that tells them apart best:\n\n{markdown(shown)}"
    )


def _locality(recorded: RoutingTrace) -> str:
    frame = locality(recorded).drop(columns="pairs")
    names = {
        "share": "consecutive tokens",
        "uniform_chance": "chance, uniform load",
        "load_chance": "chance, this load",
    }
    shares = {name: frame[name].map("{:.1%}".format) for name in names}
    return "## Same expert for consecutive tokens\n\n" + markdown(frame.assign(**shares).rename(columns=names))


def recognition(model: LoadedModel) -> str:
    """Section: the kind of a text, told by which experts it uses."""
    wrong = mistaken(model, evaluation_set())
    total, characters = len(evaluation_set()), STRETCH.stop - STRETCH.start
    return (
        f"## The kind of a text, told by its routing alone\n\n{characters} characters from the middle of each "
        f"evaluation text are routed most like the recorded beginnings of their own kind in "
        f"**{total - len(wrong)} of {total}** texts (at random: {total // len(DOMAINS)}). Mistaken: "
        f"{', '.join(wrong) or 'none'}."
    )


def positions(model: LoadedModel) -> str:
    """Section: loss by position, and what more context is worth."""
    by_position = loss_by_position(model, evaluation_set()).rename(columns={"nats": "nats/token"})
    gain = context_gain(model, evaluation_set()).rename(columns={"nats": "nats/token"})
    return (
        f"## Loss by position\n\n{markdown(by_position)}\n\nThe last of these tokens again, with all the text before "
        f"them and with less:\n\n{markdown(gain)}"
    )


def formation(_model: LoadedModel) -> str:
    """Section: how much of the final routing was decided at earlier moments of the training."""
    recorded = traces_over_training()
    final = recorded[max(recorded)]
    rows = []
    for tokens, earlier in recorded.items():
        frame = router_saturation(earlier, final)
        shares = frame[frame["choice"] == "all choices"].set_index("layer")["saturation"]
        told = label_information(earlier)["information"]
        rows.append(
            {"training tokens": f"{tokens:,}"}
            | {f"layer {layer}": f"{share:.0%}" for layer, share in shares.items()}
            | {"MI(expert; domain), bits, mean of layers": told.mean()}
        )
    return "## How routing settled: share of the final experts already chosen\n\n" + markdown(pd.DataFrame(rows))


def continuations(model: LoadedModel) -> str:
    """Section: what it writes, greedy and drawn, from the beginnings of evaluation texts."""
    return "## Continuations, unedited\n\n" + "\n".join(_continuations(model))


def _continuations(model: LoadedModel) -> Iterator[str]:
    for domain, label in DOMAINS.items():
        yield f"### {label}\n"
        for text in [text for text in evaluation_set() if text.domain == domain][:PROMPTS]:
            prompt = text.text[:PROMPT_CHARACTERS].rsplit(" ", 1)[0]  # not in mid-word
            yield f"    prompt   {prompt!r}"
            for name, sampling in {"greedy": Sampling(), "drawn": DRAWN}.items():
                yield f"    {name:<8} {_continue(model, prompt, sampling)!r}"
            yield ""


def _continue(model: LoadedModel, prompt: str, sampling: Sampling) -> str:
    tokens = trace(model, prompt, max_new_tokens=NEW_TOKENS, sampling=sampling, keep_logits=False).tokens
    return model.tokenizer.decode(tokens.loc[tokens["phase"] == "generated", "token_id"].tolist())


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown; fractions to three places."""
    cells = frame.map(lambda value: f"{value:.3f}" if isinstance(value, float) else str(value))
    lines = [" | ".join(map(str, cells.columns)), " | ".join("---" for _ in cells.columns)]
    lines += [" | ".join(row) for row in cells.itertuples(index=False)]
    return "\n".join(f"| {line} |" for line in lines)


SECTIONS: tuple[Callable[[LoadedModel], str], ...] = (losses, routing, recognition, positions, formation, continuations)
