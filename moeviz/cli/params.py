"""Count a model's parameters: `moeviz params`."""

import json
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moeviz.cli.cost import print_estimate
from moeviz.cli.options import add_adapter, add_backend, add_json, counted_at, number, numbers, run_adapters
from moeviz.cli.output import frame_text, records, visible_line
from moeviz.errors import CaptureError, MoevizError
from moeviz.text import quoted

if TYPE_CHECKING:
    import pandas as pd

    from moeviz.model_info import ModelInfo
    from moeviz.parameters import LayerCache, ServedModel
    from moeviz.routing_trace import RoutingTrace


MEMORY = "Memory of weights, keys and values and a step, and the cards that hold them with a tenth left free."
ON_ONE = "experts_a_layer_"  # a column for each card begins so
SETTINGS = ["weight_bits", "context", "batch"]
SIZES = {
    "weights": "weight_bytes",
    "one expert": "expert_bytes",
    "keys and values": "kv_bytes",
    "a step": "step_bytes",
    "together": "bytes",
}


def arguments(parser: ArgumentParser) -> None:
    model = parser.add_mutually_exclusive_group()
    model.add_argument("model", metavar="MODEL", nargs="?", default="embedded")
    model.add_argument("--known", action="store_true")
    several = numbers(int, 1)
    parser.add_argument("--context", default=[8192], **several)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--batch", **several)
    parser.add_argument("--bits", **several)
    parser.add_argument("--partial", action="store_true")
    parser.add_argument("--gpu-memory", type=number(float, 1), metavar="GB")
    parser.add_argument("--gpus", type=number(int, 1), default=1, metavar="N")
    add_backend(parser)
    add_adapter(parser)
    parser.add_argument("--trace", metavar="FILE")
    add_json(parser)


def run(args: Namespace) -> int:
    run_adapters(args)
    if args.known:
        from moeviz.capture.models.known_models import known_counts

        table = known_counts()
        print(json.dumps(records(table)) if args.json else frame_text(table.round(2).replace("", "·")))
        return 0
    if args.memory:
        return print_memory(args)
    if len(args.context) > 1 or args.batch or args.bits:
        raise MoevizError("Several lengths, --batch and --bits are for the table of memory. Add --memory.")
    trace, (context,) = None, args.context
    if args.trace is not None:
        from moeviz.formats.exports import read_trace

        trace = read_trace(args.trace)
    facts = params_of(args.model, context, trace, args.backend)
    if args.gpu_memory is not None:
        facts["fits"] = fits_of(args.model, context, args.gpu_memory, args.gpus)
    print(json.dumps(facts) if args.json else params_text(facts))
    return 0


def print_memory(args: Namespace) -> int:
    """Print the memory of a model, by its name, or of the model of a trace or a dataset; return the exit code."""
    from moeviz.capture.opening import known_before, served_model
    from moeviz.formats.dataset.opening import is_dataset
    from moeviz.formats.exports import EXPORTS
    from moeviz.metrics.words import bytes_said
    from moeviz.serving.memory import serving_memory

    is_trace = is_dataset(args.model) or Path(args.model).suffix.lower() in {row.suffix for row in EXPORTS if row.read}
    name = counted_at(args.model, args).model.name if is_trace else args.model
    table = serving_memory(served_model(name), args.context, args.batch or [1], args.bits or [16])
    said = f"{visible_line(name)}: an estimate from its config; keys, values and buffers are in 16 bits."
    if name.lower().endswith(".gguf") and (known := known_before(name)):
        said += f" In llama.cpp, as it is stored ({known.info.dtype}), it needs {bytes_said(float(known.memory))}."
    if args.json:
        print_estimate(table, said, MEMORY, as_json=True)
    else:
        sizes, cards = _sizes_and_cards(table)
        print_estimate(sizes, said, MEMORY, as_json=False, other=([], {"cards": cards}))
    return 0


def _sizes_and_cards(table: "pd.DataFrame") -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Return a table of memory for people: sizes in units, and a row for each kind of card."""
    from pandas import concat

    from moeviz.metrics.words import bytes_said

    sizes = table[SETTINGS].assign(**{name: table[of].map(float).map(bytes_said) for name, of in SIZES.items()})
    rows = [
        table[SETTINGS].assign(card=card, needed=table[card], experts_a_layer_on_one=table[f"{ON_ONE}{card}"])
        for card in (name.removeprefix(ON_ONE) for name in table if name.startswith(ON_ONE))
    ]
    return sizes, concat(rows).sort_values(SETTINGS, kind="stable")


def params_of(
    name: str, tokens: int, trace: "RoutingTrace | None" = None, backend: str | None = None
) -> dict[str, Any]:
    """Count parameters: total, active by each convention, by part; memory, with keys and values of `tokens`.

    The maker's figures stand next to them; with a trace of the model, the parameters that its tokens touch. Raises
    `CaptureError` for a trace of another model, and for an engine that does not say how many parameters a model has.
    """
    from moeviz.model_info import PARTS
    from moeviz.parameters import CONVENTIONS, active_parameters

    known, model = None, _written_down(name) if trace is None and backend is None else None
    if model is None:
        from moeviz.capture.models.load import model_facts
        from moeviz.capture.opening import known_before

        known = known_before(name, backend)
        model = model_facts(name) if known is None else known.info
    if (counts := model.parameters) is None:
        raise CaptureError(f"{quoted(name)} runs in {model.backend}, which does not say how many parameters it has.")
    active = {convention: active_parameters(counts, model.top_k, convention) for convention in CONVENTIONS}
    facts = {"model": model.name, "site": model.site, "total": counts.total, "active": active}
    facts |= {"parts": {part: getattr(counts, part) for part in PARTS}}
    facts |= {"num_experts": model.num_experts, "top_k": model.top_k, "layers": len(model.layers)}
    if trace is not None:
        facts["touched"] = _touched_counts(model, trace)
    if known is not None and known.memory:
        facts["stored"] = {"backend": model.backend, "dtype": model.dtype, "bytes": known.memory}
    caches = None
    with suppress(CaptureError):  # moeviz cannot tell what it keeps of a text
        if served := _served_facts(name) if known is None else known.served:
            caches = served.caches
    return facts | _memory(counts.total, caches, tokens) | _published_model(model.name)


def _written_down(name: str) -> "ModelInfo | None":
    """Return what the table of well-known models says of one: importing what counts takes seconds."""
    from moeviz.model_info import ModelInfo

    if (served := _known(name)) is None:
        return None
    layers = len(served.parameters.per_expert)
    experts = (served.num_experts,) * layers
    return ModelInfo(name, "transformers", (*range(layers),), experts, served.top_k, parameters=served.parameters)


@cache  # it takes seconds, and a command asks twice
def _served_facts(name: str) -> "ServedModel":
    if (known := _known(name)) is not None:
        return known
    from moeviz.capture.opening import served_model

    return served_model(name)


def _known(name: str) -> "ServedModel | None":
    if Path(name).is_dir():  # which have no table, so pandas need not be imported
        return None
    from moeviz.serving.memory import known_model

    return known_model(name)


def _touched_counts(model: "ModelInfo", trace: "RoutingTrace") -> dict[str, int]:
    from moeviz.metrics.parameters import touched_growth

    if (trace.model.layers, trace.model.num_experts) != (model.layers, model.num_experts):
        raise CaptureError(
            f"The trace is of {trace.model.name}, layers {trace.model.layers} with {trace.model.num_experts} experts; "
            f"{model.name} has layers {model.layers} with {model.num_experts}. Give a trace of this model."
        )
    grown = touched_growth(replace(trace, model=replace(trace.model, parameters=model.parameters)))
    last = grown.iloc[-1]
    return {"tokens": len(grown), "parameters": int(last["touched"]), "experts": int(last["experts"])}


def _memory(total: int, layers: "tuple[LayerCache, ...] | None", tokens: int) -> dict[str, Any]:
    from moeviz.parameters import BITS, CARDS, cards_needed, weight_bytes

    cache = None if layers is None else 2 * sum(layer.values(tokens) for layer in layers)
    weights = {bits: weight_bytes(total, bits) for bits in BITS}
    cards = {card: {bits: cards_needed(w + (cache or 0), card) for bits, w in weights.items()} for card in CARDS}
    return {"weight_bytes": weights, "cache": {"tokens": tokens, "bytes": cache}, "cards": cards}


def fits_of(name: str, tokens: int, gigabytes: float, cards: int) -> dict[str, Any]:
    """Report which parts of a model fit into these cards: by bits per weight, and with 4 bits of bitsandbytes.

    Raises `CaptureError` if moeviz cannot tell what the model keeps of a text.
    """
    from moeviz.serving.memory import fit_sentence, memory_on_cards

    served = _served_facts(name)
    frame = memory_on_cards(served, gigabytes, cards, context=tokens)
    facts = {"sentence": fit_sentence(frame), "by_precision": records(frame)}
    return facts | {"bitsandbytes": _in_bitsandbytes(name, served.parameters.total, frame)}


def _in_bitsandbytes(name: str, total: int, frame: "pd.DataFrame") -> dict[str, Any] | None:
    """Estimate a transformers model in 4 bits of bitsandbytes; None if transformers does not open it."""
    from moeviz.capture.engine_table import engine_of
    from moeviz.capture.models.load import model_config
    from moeviz.capture.models.parameters import packed_in_few_bits

    if engine_of(name) is not None or (packed := packed_in_few_bits(model_config(name))) is None:
        return None
    whole = frame[frame["weight_bits"] == 16].iloc[0]
    together = whole["together"] - 1.5 * packed[0] / 1e9  # two bytes of each become half a byte
    return {
        "packed": packed[0],
        "packed_of_experts": packed[1],
        "of": total,
        "together": together,
        "fits": bool(together <= whole["usable"]),
    }


def _published_model(name: str) -> dict[str, Any]:
    from moeviz.capture.models.known_models import KNOWN_MODELS

    if (known := KNOWN_MODELS.get(name)) is None:
        return {}
    published = {"total": known.total, "active": known.active, "convention": known.convention, "remark": known.remark}
    return {"published": published}


def params_text(facts: dict[str, Any]) -> str:
    """Return the counts as text for a terminal."""
    rows = {"total": facts["total"], **{f"active, {convention}": n for convention, n in facts["active"].items()}}
    rows |= {f"  {part.replace('_', ' ')}": n for part, n in facts["parts"].items()}
    if touched := facts.get("touched"):
        rows[f"touched by the {touched['tokens']:,} tokens of the trace"] = touched["parameters"]
    wide, long = max(map(len, rows)), len(f"{facts['total']:,}")
    experts, layers = max(facts["num_experts"]), facts["layers"]
    site = f" ({facts['site']})" if facts["site"] else ""
    lines = [f"{facts['model']}: {facts['top_k']} of {experts} experts per token in {layers} layers{site}"]
    lines += [f"{name:<{wide}}  {count:>{long},}" for name, count in rows.items()]
    if stored := facts.get("stored"):
        lines += [f"In {stored['backend']}, as it is stored ({stored['dtype']}), it needs {_size(stored['bytes'])}."]
    return "\n".join([*lines, *_published_lines(facts), "", *_memory_lines(facts)])


def _published_lines(facts: dict[str, Any]) -> list[str]:
    if (published := facts.get("published")) is None:
        return []
    remark = f" ({published['remark']})" if published["remark"] else ""
    active = ""
    if published["active"] is not None:
        counted = published["convention"].replace("all", "counting everything")
        active = f", {published['active']:g} active, {counted}"
    return [f"Its maker says {published['total']:g} billion{active}{remark}. The config is moeviz's own copy."]


def _memory_lines(facts: dict[str, Any]) -> list[str]:
    """List gigabytes of weights, and the cards that hold them, by bits per weight."""
    import pandas as pd

    from moeviz.parameters import CARDS

    tokens, cache = facts["cache"]["tokens"], facts["cache"]["bytes"]
    kept = "not known, so left out below" if cache is None else _size(cache)
    sizes = {"weights": {bits: _size(size) for bits, size in facts["weight_bytes"].items()}}
    cards = {f"{name}, {CARDS[name]} GB": row for name, row in facts["cards"].items()}
    frame = pd.DataFrame(sizes | cards).T.rename(columns=lambda bits: f"{bits} bits")
    return [
        f"keys and values of {tokens:,} tokens, in 16 bits: {kept}",
        "Number of cards that hold weights, keys and values with a tenth of each card left free, by bits per weight:",
        frame.to_string(),
        *_fits_lines(facts),
    ]


def _fits_lines(facts: dict[str, Any]) -> list[str]:
    """List, by bits per weight, what is on the cards and what accelerate offloads; and the case of bitsandbytes."""
    import pandas as pd

    if (fits := facts.get("fits")) is None:
        return []
    parts = ("experts", "other_weights", "keys_and_values", "step", "together")
    rows = {
        f"{row['weight_bits']} bits": {part.replace("_", " "): _size(int(row[part] * 1e9)) for part in parts}
        | {"outside": _size(max(int((row["together"] - row["usable"]) * 1e9), 0))}
        for row in fits["by_precision"]
    }
    lines = ["", pd.DataFrame(rows).T.to_string(), fits["sentence"]]
    if (packed := fits["bitsandbytes"]) is not None:
        lines.append(_bitsandbytes_sentence(packed))
    return lines


def _bitsandbytes_sentence(packed: dict[str, Any]) -> str:
    """Describe what transformers packs with bitsandbytes in 4 bits, whether that includes experts, and the memory."""
    number, of_experts = packed["packed"], packed["packed_of_experts"]
    fused = "none of them in experts, which are fused and stay in 16 bits"
    experts = f"{of_experts:,} of them in experts" if of_experts else fused
    needs = f"it needs {_size(int(packed['together'] * 1e9))}, which {'fits' if packed['fits'] else 'does not fit'}."
    says = f"4 bits by bitsandbytes, in transformers, pack {number:,} of {packed['of']:,} parameters, {experts}."
    return f"{says} With that {needs}"


def _size(taken: int) -> str:
    return f"{taken / 1e9:,.1f} GB" if taken >= 1e9 else f"{taken / 1e6:,.1f} MB"
