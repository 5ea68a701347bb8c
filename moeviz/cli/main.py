"""The command `moeviz`: trace a prompt or a corpus, count parameters, print metrics, convert files, or open the app.

Results go to stdout and everything else to stderr. Exit code 0: done; 1: a sentence on stderr says why not; 2: wrong
usage; 3: `training` found an alarm that is on. What is heavy is imported by the command that needs it, so `moeviz
--help` is there at once.
"""

import json
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial

from moeviz.cli.arguments import parser, with_values
from moeviz.cli.io import check_output, load, note, progress, read_prompt, records, write
from moeviz.cli.terminal import frame_text
from moeviz.errors import MoevizError
from moeviz.names import cut, quoted


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `moeviz` and return its exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads sleep while they wait, and burn no CPU
    arguments = parser()
    args, args.extra = arguments.parse_known_args(with_values(sys.argv[1:] if argv is None else argv))
    if unknown := [word for word in args.extra if args.command != "app" or not word.startswith("-")]:
        arguments.error(f"unrecognized arguments: {' '.join(unknown)}")
    logging.basicConfig(format="moeviz: %(message)s")
    logging.getLogger("moeviz").setLevel(logging.INFO)
    for stream in (sys.stdout, sys.stderr):  # a terminal may not know every character that a token has
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = COMMANDS[args.command](args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `moeviz … | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        note("stopped")
        return 130
    except MoevizError as error:
        note(str(error))
    except OSError as error:
        note(f"{error.strerror or error}: {cut(str(error.filename))}" if error.filename else str(error))
    return 1


def _app(args: Namespace) -> int:
    from moeviz.cli.app import serve_app
    from moeviz.cli.importing import opened

    way = "team" if args.team else "public" if args.public else None
    whose = {"way": way, "behind": args.behind, "login_header": args.login_header}
    serve_app(
        args.port,
        args.extra,
        browser=not args.no_browser and way is None,
        files=args.files,
        read=partial(opened, args=args),
        **whose,
    )
    return 0


def _trace(args: Namespace) -> int:
    check_output(args.output)
    prompt = read_prompt(args.prompt)
    from moeviz.capture.run.decoding import check_settings
    from moeviz.capture.trace import trace
    from moeviz.cli.trace import decoding_of, sampling_of, summary_of, summary_text

    sampling, decoding = sampling_of(args), decoding_of(args)
    check_settings(sampling, decoding)  # before the model is opened
    result = trace(
        load(args, device_map=args.device_map, dtype=args.dtype),
        prompt,
        max_new_tokens=args.max_new_tokens,
        sampling=sampling,
        decoding=decoding,
        kernels="auto" if args.kernels is None else args.kernels,
        keep_logits=not args.no_logits,
        site=args.site,
        progress=progress,
    )
    write(result, args.output)
    summary = summary_of(result)
    print(json.dumps(summary) if args.json else summary_text(summary))
    return 0


def _what_if(args: Namespace) -> int:
    check_output(args.output)
    prompt = read_prompt(args.prompt)
    from moeviz.capture.what_if import what_if
    from moeviz.cli.what_if import effect_text, intervention_of

    change, model = intervention_of(args), load(args)
    result = what_if(model, prompt, change)
    write(result.changed, args.output)
    print(json.dumps(records(result.effect)) if args.json else effect_text(result, model.tokenizer))
    return 0


def _ablate(args: Namespace) -> int:
    prompt = read_prompt(args.prompt)
    from moeviz.capture.what_if import ablate

    told = partial(progress, says="muted {} of {} experts")
    ranking = ablate(load(args), prompt, layers=args.layers, progress=told)
    print(json.dumps(records(ranking)) if args.json else frame_text(ranking.round(4)))
    return 0


def _precision(args: Namespace) -> int:
    prompt = read_prompt(args.prompt)
    if args.beside is not None:
        return _beside(args, prompt)
    from moeviz.capture.engine_table import engine_of
    from moeviz.capture.precisions import in_precisions
    from moeviz.cli.what_if import precision_table
    from moeviz.errors import CaptureError

    if (engine := engine_of(args.model, args.backend)) is not None:
        raise CaptureError(
            f"{quoted(args.model)} runs in {engine.name}, in the precision that it is stored in. Give the same "
            "model in another one beside it: --beside MODEL."
        )
    table = precision_table(in_precisions(load(args), prompt))
    print(json.dumps(records(table)) if args.json else frame_text(table.round(4)))
    return 0


def _beside(args: Namespace, prompt: str) -> int:
    from moeviz.capture.trace import trace
    from moeviz.cli.diff import difference, difference_text

    traces = []
    for name in (args.model, args.beside):
        model = load(args, name)
        traces.append(trace(model, prompt))
        del model  # the memory of the first is needed for the second
    found = difference(*traces)
    print(json.dumps(found) if args.json else difference_text(found))
    return 0


def _corpus(args: Namespace) -> int:
    from moeviz.cli.corpus import check_layer, report, tables, texts_at
    from moeviz.cli.dataset import check_no_dataset, is_folder, written
    from moeviz.labelled_texts import texts_that_ship

    if is_folder(args.output):
        print(written(args))
        return 0
    check_no_dataset(args)
    check_output(args.output)
    texts = texts_that_ship() if args.embedded else texts_at(args.files)
    from moeviz.capture.corpus import trace_corpus

    model = load(args)
    check_layer(args.layer, model.info)
    result = trace_corpus(model, texts, progress=partial(progress, says="traced {} of {} texts"))
    write(result, args.output)
    if not args.json:
        print(report(result, args.layer))
        return 0
    frames, reasons = tables(result)
    for reason in reasons:
        note(reason)
    print(json.dumps({"model": model.name} | {name: records(frame) for name, frame in frames.items()}))
    return 0


def _params(args: Namespace) -> int:
    from moeviz.capture.models.known_models import known_counts
    from moeviz.cli.params import params_of, params_text
    from moeviz.formats.exports import read_trace

    if args.known:
        table = known_counts()
        print(json.dumps(records(table)) if args.json else frame_text(table.round(2).replace("", "·")))
        return 0
    trace = None if args.trace is None else read_trace(args.trace)
    facts = params_of(args.model, args.context, trace, args.backend)
    print(json.dumps(facts) if args.json else params_text(facts))
    return 0


def _families(args: Namespace) -> int:
    from moeviz.capture.routers.families import families
    from moeviz.cli.families import differences, table_text

    print(json.dumps(records(families())) if args.json else table_text())
    if not args.check:
        return 0
    note("surveying the installed transformers")
    found = differences()
    print(found or "The installed version of transformers is read as the table says.")
    return 1 if found else 0


def _history(args: Namespace) -> int:
    check_output(args.output)
    from moeviz.cli.history import check, holds, systems, trained
    from moeviz.cli.trace import summary_of, summary_text

    if args.action == "run":
        result = trained(args.name or "local-experts", args.seed, note)
        write(result, args.output)
        print(json.dumps(summary_of(result)) if args.json else summary_text(summary_of(result)))
        return 0
    if args.action == "list":
        print(json.dumps(records(systems())) if args.json else frame_text(systems()))
        return 0
    names, show = [args.name] if args.name else [], note if args.json else print
    table = check(names, args.quick, args.seed, args.controls, show)
    if args.json:
        print(json.dumps(records(table)))
    return int(not holds(table))


def _metrics(args: Namespace) -> int:
    from moeviz.cli.metrics import measures
    from moeviz.cli.terminal import frame_texts, print_tables

    tables, lacking = {}, []
    for name, measure in measures(args):
        try:
            tables[name] = measure()
        except MoevizError as error:
            lacking.append(str(error))
    for sentence in dict.fromkeys(lacking):
        note(sentence)
    if args.json:
        print_tables(tables)
    for name, frame in {} if args.json else tables.items():
        print(name)
        for text in frame_texts(frame):
            print(text)
        print()
    return 0 if tables else 1


def _serve(args: Namespace) -> int:
    from moeviz.cli.serve import heading, in_lines, served

    table, said = served(args)
    if args.json:
        note(said)
        print(json.dumps(records(table)))
        return 0
    print(f"{heading(args.what)}\n{in_lines(said)}\n\n{frame_text(table.round(4))}")
    return 0


def _plan(args: Namespace) -> int:
    from moeviz.cli.serve import plan_text, planned

    facts = planned(args)
    print(json.dumps(facts) if args.json else plan_text(facts))
    return 0


def _convert(args: Namespace) -> int:
    from moeviz.cli.dataset import converted, is_dataset, is_folder
    from moeviz.cli.importing import read
    from moeviz.expert_counts import ExpertCounts
    from moeviz.formats.counts_file import write_counts
    from moeviz.formats.exports import export_for, write_trace

    target = args.output or args.target
    if is_dataset(args.source) or is_folder(target):
        note(f"wrote {target}: {converted(args, target)}")
        return 0
    export_for(target)
    found = read(args.source, args)
    if isinstance(found, ExpertCounts):
        write_counts(found, target)
        note(f"wrote {target}: {found!r}")
        return 0
    write_trace(found, target)
    note(f"wrote {target}: {len(found.tokens):,} tokens, {len(found.model.layers)} layers")
    if found.logits is not None and export_for(target).suffix in (".csv", ".parquet"):
        note("the router logits of experts that were not chosen are not in this format; .json and .npz keep them")
    return 0


def _doctor(args: Namespace) -> int:
    from moeviz.cli.dataset import damages, is_dataset
    from moeviz.cli.doctor import doctor_text
    from moeviz.cli.importing import read, read_one_trace
    from moeviz.metrics.doctor import examine

    if is_dataset(args.source):
        wrong = damages(args.source)
        print(json.dumps(wrong) if args.json else "\n".join(wrong) or "Every file of the dataset is as it was written.")
        return int(bool(wrong))
    beside = None if args.beside is None else read_one_trace(args.beside, args)
    found = examine(read(args.source, args), beside, args.tokens)
    print(json.dumps(records(found)) if args.json else doctor_text(found))
    return int(len(found) > 0)


def _diff(args: Namespace) -> int:
    from moeviz.cli.diff import difference, difference_text
    from moeviz.cli.importing import read_one_trace

    found = difference(read_one_trace(args.source, args), read_one_trace(args.other, args))
    print(json.dumps(found) if args.json else difference_text(found))
    return 0


def _compare(args: Namespace) -> int:
    from moeviz.cli.compare import LETTERS, compare_text, compared
    from moeviz.cli.importing import read_one_trace

    files = [args.source, *args.others]
    if len(files) > len(LETTERS):
        raise MoevizError(f"Up to {len(LETTERS)} traces are compared, and {len(files)} are named. Leave some out.")
    found = compared([read_one_trace(file, args) for file in files])
    print(json.dumps(found) if args.json else compare_text(found))
    return 0


def _training(args: Namespace) -> int:
    from moeviz.cli.training import ALARM, alarms_on, run_of, training_json, training_text

    run = run_of(args)
    made = training_json if args.json else training_text
    found = made(run, args.ignore, args.rows)
    print(json.dumps(found) if args.json else found)
    return ALARM if len(alarms_on(run, args.ignore)) else 0


COMMANDS = {
    "app": _app,
    "trace": _trace,
    "what-if": _what_if,
    "ablate": _ablate,
    "precision": _precision,
    "corpus": _corpus,
    "params": _params,
    "families": _families,
    "history": _history,
    "metrics": _metrics,
    "serve": _serve,
    "plan": _plan,
    "convert": _convert,
    "doctor": _doctor,
    "diff": _diff,
    "compare": _compare,
    "training": _training,
}
