"""What can be typed after the commands that open models, train them or serve the app."""

import argparse

from moeviz.capture.interventions.table import INTERVENTIONS
from moeviz.cli.importing import add_import_options
from moeviz.cli.numbers import number

DTYPES = ("auto", "float32", "bfloat16", "float16")


def app_arguments(app: argparse.ArgumentParser) -> None:
    """Of `moeviz app`."""
    says = (
        "show these, the first of them at once: traces, counts, runs of training, datasets, what other programs wrote; "
        "or a model: .gguf"
    )
    app.add_argument("files", metavar="FILE", nargs="*", help=says)
    app.add_argument("--port", type=number(int, 1, 65535), default=8501, help="port to serve on (default: 8501)")
    app.add_argument("--no-browser", action="store_true", help="serve without opening a browser")
    ways = app.add_mutually_exclusive_group()
    ways.add_argument(
        "--team", action="store_true", help="serve a group on its own network: a token or a log-in, listed models only"
    )
    ways.add_argument("--public", action="store_true", help="serve strangers: listed models only, and strict limits")
    app.add_argument(
        "--behind",
        action="append",
        default=[],
        metavar="HOST",
        help="the name by which browsers reach the server, such as lab.example; for each name once",
    )
    app.add_argument(
        "--login-header",
        metavar="NAME",
        help="with --team: the header in which a proxy says who has logged in, in place of the token; the proxy's "
        "address stands in MOEVIZ_TRUSTED_PROXIES",
    )
    add_import_options(app)


def trace_arguments(trace: argparse.ArgumentParser) -> None:
    """Of `moeviz trace`."""
    trace.add_argument("prompt", metavar="PROMPT", help="the text, or - to read it from standard input")
    trace.add_argument("-o", "--output", metavar="FILE", help="where to write the trace: .csv, .parquet, .json or .npz")
    _add_model(trace)
    trace.add_argument(
        "--max-new-tokens", type=number(int, 0), default=0, metavar="N", help="how many tokens to generate"
    )
    trace.add_argument(
        "--temperature", type=number(float, 0), default=0.0, metavar="T", help="0 is greedy (the default)"
    )
    trace.add_argument("--top-k", type=number(int, 1), metavar="K", help="sample from the K most likely tokens")
    trace.add_argument(
        "--top-p",
        type=number(float, 0, 1),
        metavar="P",
        help="sample from the most likely tokens, up to a total probability of P",
    )
    trace.add_argument(
        "--seed", type=number(int, 0), default=0, metavar="N", help="the same seed gives the same tokens"
    )
    trace.add_argument(
        "--decoding",
        choices=("checkpoint",),
        help="generate as the checkpoint's own settings say, in place of the options above and below; --seed holds",
    )
    trace.add_argument("--num-beams", type=number(int, 1), default=1, metavar="N", help="beam search with N beams")
    trace.add_argument(
        "--num-return-sequences",
        type=number(int, 1),
        default=1,
        metavar="N",
        help="how many continuations to generate",
    )
    trace.add_argument("--cache", metavar="KIND", help="kind of key-value cache, as transformers names it: static …")
    trace.add_argument(
        "--prefill-chunk-size", type=number(int, 1), metavar="N", help="read the prompt in chunks of N tokens"
    )
    trace.add_argument("--prompt-lookup", type=number(int, 1), metavar="N", help="draft N tokens from the prompt")
    trace.add_argument(
        "--site", metavar="SITE", help="which routers to record, if the model has several kinds: encoder …"
    )
    trace.add_argument("--device-map", metavar="MAP", help="where to put the weights: auto, cpu, cuda:0 …")
    trace.add_argument("--dtype", choices=DTYPES, help="precision of the weights (default: as the checkpoint says)")
    trace.add_argument("--no-logits", action="store_true", help="record only the chosen experts and their weights")
    trace.add_argument(
        "--kernels",
        action=argparse.BooleanOptionalAction,
        help="let moeviz's kernels run the routers, or not (default: on a GPU, if they know the model's routers)",
    )
    trace.add_argument("--json", action="store_true", help="print the summary as JSON")


def _add_model(command: argparse.ArgumentParser) -> None:
    says = (
        "'embedded' (the default), its siblings 'embedded-natural' and 'embedded-fine', a folder, a Hugging Face id, a "
        ".gguf file, or a server: vllm+http://localhost:8000"
    )
    command.add_argument("--model", default="embedded", help=says)
    _add_backend(command)
    command.add_argument(
        "--ignore-memory", action="store_true", help="load the model also where more memory is needed than is free"
    )


def _add_backend(command: argparse.ArgumentParser) -> None:
    says = "the engine that runs the model: transformers, llama.cpp, mlx, vllm, sglang (default: by the model's name)"
    command.add_argument("--backend", metavar="ENGINE", help=says)


def what_if_arguments(what_if: argparse.ArgumentParser) -> None:
    """Of `moeviz what-if`."""
    what_if.add_argument("prompt", metavar="PROMPT", help="the text, or - to read it from standard input")
    change = what_if.add_mutually_exclusive_group(required=True)
    for option in INTERVENTIONS:
        whole = {} if option.least is None else {"type": number(int, option.least)}
        change.add_argument(option.flag, **whole, **option.keywords)
    for flag, keywords in (beside for option in INTERVENTIONS for beside in option.beside.items()):
        what_if.add_argument(flag, **keywords)
    what_if.add_argument("-o", "--output", metavar="FILE", help="where to write the trace of the changed model")
    _add_model(what_if)
    what_if.add_argument("--json", action="store_true", help="print the effect as JSON")


def ablate_arguments(ablate: argparse.ArgumentParser) -> None:
    """Of `moeviz ablate`."""
    ablate.add_argument("prompt", metavar="PROMPT", help="the text, or - to read it from standard input")
    ablate.add_argument(
        "--layers", type=number(int, 0), nargs="+", metavar="N", help="only these layers (default: all)"
    )
    _add_model(ablate)
    ablate.add_argument("--json", action="store_true", help="print JSON")


def precision_arguments(precision: argparse.ArgumentParser) -> None:
    """Of `moeviz precision`."""
    precision.add_argument("prompt", metavar="PROMPT", help="the text, or - to read it from standard input")
    _add_model(precision)
    precision.add_argument(
        "--beside",
        metavar="MODEL",
        help="compare with this model, such as another quantisation in a .gguf file, in place of other dtypes",
    )
    precision.add_argument("--json", action="store_true", help="print JSON")


def corpus_arguments(corpus: argparse.ArgumentParser) -> None:
    """Of `moeviz corpus`."""
    says = (
        'a text file, labelled by its name without the suffix; or a .jsonl file with {"label": …, "text": …} on '
        "each line; for a folder of -o also a .parquet file with a column “text”, or a folder of such files"
    )
    source = corpus.add_mutually_exclusive_group(required=True)
    source.add_argument("files", metavar="FILE", nargs="*", default=[], help=says)
    source.add_argument("--embedded", action="store_true", help="the held-out texts that ship with the embedded model")
    corpus.add_argument(
        "-o",
        "--output",
        metavar="PLACE",
        help="where to write the trace: .csv, .parquet, .json or .npz; or, for a corpus of any size, a folder (a name "
        "without a suffix)",
    )
    _add_model(corpus)
    _add_dataset(corpus)
    corpus.add_argument(
        "--layer", type=number(int, 0), metavar="N", help="the layer to show (default: the most informative)"
    )
    corpus.add_argument("--json", action="store_true", help="print all tables, of all layers, as JSON")


def _add_dataset(corpus: argparse.ArgumentParser) -> None:
    group = corpus.add_argument_group("with a folder for -o", "Texts are read, traced and written a shard at a time.")
    group.add_argument("--resume", action="store_true", help="go on with a run that ended early: no text comes twice")
    group.add_argument("--no-text", action="store_true", help="write neither the tokens' texts nor their ids")
    group.add_argument(
        "--weights", choices=("float16", "exact", "none"), help="how weights are written (default: float16)"
    )
    group.add_argument("--lines", action="store_true", help="each line of a text file is a text")
    group.add_argument(
        "--shard-bytes", type=number(int, 1), metavar="N", help="text of a shard, in bytes (default: 4,000,000)"
    )
    group.add_argument(
        "--batch-tokens",
        type=number(int, 0),
        metavar="N",
        help="tokens of a batch, 0 for a text at a time (default: 16,384 on a GPU, else 1,024); transformers alone",
    )
    group.add_argument(
        "--threads",
        type=number(int, 1),
        metavar="N",
        help="CPU threads of a process (default: all cores; with --ray 1)",
    )
    group.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="run on Ray: on this machine, or with auto or HOST:PORT on a cluster that is up",
    )
    group.add_argument(
        "--actors", type=number(int, 1), metavar="N", help="with --ray: models that run side by side (default: all fit)"
    )
    group.add_argument(
        "--gpus", type=number(float, 0), metavar="F", help="with --ray: GPUs of an actor, such as 0.5 (default: 0)"
    )


def params_arguments(params: argparse.ArgumentParser) -> None:
    """Of `moeviz params`."""
    model = params.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "model", metavar="MODEL", nargs="?", help="'embedded', a folder, a Hugging Face id, or a .gguf file"
    )
    model.add_argument("--known", action="store_true", help="well-known models, next to what their makers say")
    params.add_argument(
        "--context",
        type=number(int, 1),
        default=8192,
        metavar="N",
        help="tokens in the key-value cache (default: 8192)",
    )
    _add_backend(params)
    params.add_argument("--trace", metavar="FILE", help="also say how many parameters the tokens of this trace touched")
    params.add_argument("--json", action="store_true", help="print JSON")


def families_arguments(families: argparse.ArgumentParser) -> None:
    """Of `moeviz families`."""
    families.add_argument(
        "--check", action="store_true", help="survey the installed transformers; exit code 1 if it differs"
    )
    families.add_argument("--json", action="store_true", help="print JSON")


def history_arguments(history: argparse.ArgumentParser) -> None:
    """Of `moeviz history`."""
    history.add_argument("action", nargs="?", choices=("list", "run", "check"), default="list")
    history.add_argument("name", nargs="?", help="which system to run or check (default: local-experts; all)")
    history.add_argument(
        "--seed",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="the same seed gives the same trace, and the same check",
    )
    history.add_argument("-o", "--output", metavar="FILE", help="where to write the trace of a run")
    history.add_argument("--quick", action="store_true", help="check less, in seconds")
    history.add_argument(
        "--controls", action="store_true", help="check each claim again with its mechanism broken, where it must miss"
    )
    history.add_argument("--json", action="store_true", help="print JSON")
