"""Make what ships for the app's page of an expert: `python -m models.training.reference`.

The finished model reads the texts of `texts_over_training`: once as it is, for ids and weights; once without each of
its 48 experts, for what that costs each kind of text; and as `moeviz experts` does, for the table of all experts. About
20 minutes on one core. A sibling that is named reads them instead, but not without experts: two minutes; the bias on
the choice of the one with many small experts is written too. `--table` makes the table alone, `--pruning` what cutting
experts costs the embedded model, `--steering` what turning experts up does to it, and `--routes` how well its tokens
are routed.
"""

import argparse
import io
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

import moeviz
from models.training.steering import steering_trial
from moeviz import recorded_answers as recorded
from moeviz.analyses.lineage import Lineage, lineage
from moeviz.analyses.muting import muted_by_label
from moeviz.analyses.pruning.checkpoint import Checkpoint
from moeviz.analyses.pruning.curve import pruning_curve
from moeviz.analyses.pruning.result import PruningCurve
from moeviz.capture.corpus import trace_corpus
from moeviz.capture.models.load import LoadedModel
from moeviz.cli.main import main as moeviz_command
from moeviz.embedded import EMBEDDED, recorded_routing
from moeviz.embedded.own_models import FINE
from moeviz.embedded.recorded_routing import (
    BIAS,
    DIGITS,
    MUTED,
    ROUTING,
    TABLES,
    muted_experts,
    texts_over_training,
)
from moeviz.formats.trace_file import to_trace_file
from moeviz.labelled_texts import texts_that_ship
from moeviz.metrics.contrast import first_tokens
from moeviz.metrics.expert import loss_of_all
from moeviz.metrics.expert_names import names_by_chance
from moeviz.metrics.routes import RouteRegret

log = logging.getLogger("moeviz.training")


def main() -> None:
    """Run the command."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    parser = argparse.ArgumentParser(prog="python -m models.training.reference", description=__doc__)
    parser.add_argument("model", nargs="?", default=EMBEDDED, choices=ROUTING, help="embedded, if none is named")
    parser.add_argument("--table", action="store_true", help="make the table of all experts alone, with known losses")
    parser.add_argument("--pruning", action="store_true", help="measure what cutting experts costs, alone")
    parser.add_argument("--steering", action="store_true", help="try whether turning experts up helps, alone")
    parser.add_argument("--routes", action="store_true", help="judge the routes of tokens, alone")
    args = parser.parse_args()
    name, texts = args.model, texts_over_training()
    if args.table:
        write_table(name, texts)
        return
    alone = {write_pruning: args.pruning, write_steering: args.steering, write_routes: args.routes}
    if any(alone.values()):
        for write in (write for write, asked in alone.items() if asked):
            write()
        return
    model, file = moeviz.load_model(name), ROUTING[name]
    file.write_bytes(to_trace_file(trace_corpus(model, texts)))
    log.info("%s: %d bytes", file.name, file.stat().st_size)
    if name == FINE:
        bias_of(model).round(DIGITS).to_csv(BIAS, index=False, lineterminator="\n")
    if name == EMBEDDED:
        told = muted_by_label(model, texts, progress=lambda done, total: log.info("%d of %d texts", done, total))
        told.round(DIGITS).to_csv(MUTED, index=False, lineterminator="\n")
    write_table(name, texts)
    if name == EMBEDDED:
        for write in alone:
            write()


def write_steering() -> None:
    """Write what the page Contrast says of turning experts up, of the first tokens of each held-out text."""
    found = steering_trial(moeviz.load_model(), first_tokens(recorded_routing.reference_routing()))
    recorded.STEERING.write_text(json.dumps(found._asdict(), indent=1) + "\n", "utf-8")


def write_routes() -> None:
    """Write what the page Routes opens with."""
    found = moeviz.route_regret(moeviz.load_model(), texts_over_training(), positions=recorded.POSITIONS)
    recorded.ROUTES.write_bytes(routes_as_file(found))


def write_pruning() -> None:
    """Write what the pages Prune and Lineage open with."""
    how = {"criteria": recorded.CRITERIA, "draws": recorded.DRAWS, "seed": recorded.SEED, "tokens": recorded.TOKENS}
    curve = pruning_curve(moeviz.load_model(), texts_that_ship(), **how)
    recorded.PRUNING.write_text(curve_as_json(curve), "utf-8")
    with TemporaryDirectory() as folder:
        child = str(Path(folder, recorded.CHILD))
        Checkpoint.of(EMBEDDED, None).write(child, curve.cut("reap", 1), {})
        recorded.LINEAGE.write_text(lineage_as_json(lineage(EMBEDDED, child)), "utf-8")


def curve_as_json(curve: PruningCurve) -> str:
    """Return a curve of the texts that ship as JSON: its tables as CSV, what it rests on, and its draws."""
    tables = {name: getattr(curve, name).to_csv(index=False, float_format="%.7g") for name in recorded.TABLES}
    limits = {layer: asdict(of) for layer, of in curve.limits.items()}
    drawn = [[in_all, cut, *losses] for (in_all, cut), losses in curve.drawn.items()]
    facts = {"loss": curve.loss, "blocks": dict(curve.blocks), "limits": limits, "drawn": drawn}
    return json.dumps(tables | facts, indent=1) + "\n"


def routes_as_file(found: RouteRegret) -> bytes:
    """Return how well tokens are routed as an .npz file: arrays, the cells as Parquet, and the rest as JSON."""
    facts = {name: getattr(found, name) for name in ("every", "left_out", "error", "forwards", "heads")}
    file, cells = io.BytesIO(), np.frombuffer(found.cells.to_parquet(index=False), np.uint8)
    np.savez_compressed(file, cells=cells, losses=found.losses, routes=found.routes, facts=np.array(json.dumps(facts)))
    return file.getvalue()


def lineage_as_json(found: Lineage) -> str:
    """Return a lineage without splices as JSON."""
    table = found.table.assign(
        **{name: found.table[name].map(lambda some: " ".join(map(str, some))) for name in recorded.LISTED}
    ).to_csv(index=False)
    facts = {name: getattr(found, name) for name in ("layers", "formats", "chance", "threshold", "left_out")}
    return json.dumps({"table": table} | facts, indent=1) + "\n"


def write_table(name: str, texts: list[tuple[str, str]]) -> None:
    """Write what `moeviz experts` makes of these texts; for the embedded model, with the losses that are known."""
    with TemporaryDirectory() as folder:
        file, made = Path(folder, "texts.jsonl"), Path(folder, "experts.json")
        file.write_text("".join(json.dumps({"label": label, "text": text}) + "\n" for label, text in texts))
        if moeviz_command(["experts", name, str(file), "-o", str(made)]):
            raise SystemExit(1)
        table = pd.DataFrame(json.loads(made.read_text())).drop(columns="says")
    if name == EMBEDDED:
        muted = muted_experts()
        pairs = zip(table["layer"], table["expert"], strict=True)
        table["loss_change"] = [loss_of_all(muted, layer, expert) for layer, expert in pairs]
    table.round(DIGITS).to_csv(TABLES[name], index=False, lineterminator="\n")
    by_chance = recorded_routing.names_by_chance() | {name: names_by_chance(recorded_routing.reference_routing(name))}
    recorded_routing.CHANCE.write_text(json.dumps(by_chance), "utf-8")


def bias_of(model: LoadedModel) -> pd.DataFrame:
    """What each router adds to the scores before it chooses; columns of `fine_bias`."""
    found = [bias.tolist() for name, bias in model.model.named_buffers() if name.endswith("e_score_correction_bias")]
    rows = [(layer, expert, bias) for layer, of in enumerate(found) for expert, bias in enumerate(of)]
    return pd.DataFrame(rows, columns=["layer", "expert", "bias"])


if __name__ == "__main__":
    main()
