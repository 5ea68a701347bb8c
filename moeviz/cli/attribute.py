"""Split router logits into the contribution of each part of the model: `moeviz attribute`."""

from argparse import ArgumentParser, Namespace

from moeviz.cli.options import add_json, add_model, add_prompt, load, read_prompts
from moeviz.cli.output import frame_text, print_findings, print_tables

LIMIT = "The parts add up to the logits; they do not show which change would move the choice: moeviz occlude does."


def arguments(parser: ArgumentParser) -> None:
    add_prompt(parser)
    parser.add_argument("--token", type=int, default=-1, metavar="N")
    parser.add_argument("--layer", type=int, action="append", metavar="N")
    add_model(parser)
    add_json(parser)


def run(args: Namespace) -> int:
    prompts = read_prompts(args)
    import pandas as pd

    from moeviz.analyses.direct_attribution import direct_attribution
    from moeviz.metrics.direct_attribution import direct_caption, direct_parts

    found = direct_attribution(load(args), prompts, args.token, layers=args.layer, chat=args.chat)
    tables, findings = [], []
    for layer in found["layer"].unique().tolist():
        if (found["slot"][found["layer"] == layer] >= 0).any():
            parts = direct_parts(found, layer)
            findings.append(f"Layer {layer}: {direct_caption(parts)}")
            tables.append(parts.drop(columns="place").assign(layer=layer))
    if args.json:
        print_tables({"parts": found}, findings)
        return 0
    print_findings([*findings, LIMIT])
    if tables:
        table = pd.concat(tables)
        print(frame_text(table[["layer", *table.columns[:-1]]].round(3)))
    return 0
