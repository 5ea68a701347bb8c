"""What can be typed after `moeviz`: commands, options, and the examples of each `--help`."""

import argparse
import re
from collections.abc import Callable, Sequence

from moeviz.cli.importing import add_import_options

ANY = "a .csv, .parquet, .json or .npz file, or what another program wrote"
# moeviz.charts.TOPICS, known without loading it
TOPICS = (
    "tokens",
    "load",
    "specialization",
    "co-activation",
    "confidence",
    "locality",
    "losses",
    "layers",
    "flow",
    "parameters",
    "coverage",
    "placement",
)
OLD_TOPICS = {"cooperation": "co-activation", "repetition": "locality"}  # as they were once called
PRECISIONS = ("float32", "bfloat16", "float16", "int8")  # moeviz.capture.change.precision.NAMES
SERVED = ("cache", "coverage", "prefetch", "placement", "memory")
ENGINES = ("sglang", "tensorrt-llm", "vllm-ascend", "ktransformers", "lmdeploy", "llama.cpp")  # moeviz.serving.plans
DTYPES = ("auto", "float32", "bfloat16", "float16")
EXAMPLES = {
    "moeviz": """examples:
  moeviz app                                          open the app in a browser
  moeviz trace "Il fait froid." -o trace.csv          record what the routers decide
  moeviz what-if "Il fait froid." --mute 3:1          the effect of leaving an expert out
  moeviz ablate "Il fait froid."                      which experts matter most
  moeviz corpus --embedded                            which experts each kind of text uses
  moeviz metrics trace.csv --topic load               how the work is divided
  moeviz params allenai/OLMoE-1B-7B-0924              total and active parameters
  moeviz serve cache trace.npz                        what the routing costs to serve: hits of a cache
  moeviz plan trace.npz --engine sglang --devices 4 --copies 4 -o plan.json
  moeviz families                                     which families of models moeviz reads, and how
  moeviz convert trace.csv trace.parquet
  moeviz doctor trace.csv                             what is not plausible in a trace
  moeviz diff vllm.json transformers.npz              where two engines send the same tokens""",
    "app": """examples:
  moeviz app
  moeviz app trace.npz                                open it with this trace on screen, however large the file is
  moeviz app --port 8080 --no-browser
  moeviz app --team --behind lab.example              for a group: a token, and the models of MOEVIZ_MODELS alone
  moeviz app --team --behind lab.example --login-header X-Remote-User
  moeviz app --public --server.address 0.0.0.0        for strangers; unknown options go to Streamlit""",
    "trace": """examples:
  moeviz trace "Il fait froid."
  moeviz trace "Il fait froid." --max-new-tokens 20 --temperature 0.8 --seed 1 -o trace.npz
  moeviz trace "Il fait froid." --max-new-tokens 20 --decoding checkpoint
  moeviz trace - --model allenai/OLMoE-1B-7B-0924 -o trace.parquet < prompt.txt
  moeviz trace "Il fait froid." --json | jq .busiest""",
    "what-if": """examples:
  moeviz what-if "12 + 7 = 19" --mute 3:1,4           experts 1 and 4 of layer 3 cannot be chosen
  moeviz what-if "12 + 7 = 19" --experts-per-token 1
  moeviz what-if "12 + 7 = 19" --exchange 2 0 5       experts 0 and 5 of layer 2 get each other's tokens
  moeviz what-if "12 + 7 = 19" --replay other.npz -o changed.npz""",
    "ablate": """examples:
  moeviz ablate "12 + 7 = 19"
  moeviz ablate - --layers 2 3 --json < prompt.txt | jq .[0]""",
    "precision": """examples:
  moeviz precision "Il fait froid."                   tokens sent to other experts, by precision and layer
  moeviz precision - --json < prompt.txt | jq .[0]""",
    "corpus": """examples:
  moeviz corpus --embedded
  moeviz corpus french.txt german.txt python.txt -o mine.npz
  moeviz corpus texts.jsonl --model allenai/OLMoE-1B-7B-0924 -o olmoe.npz
  moeviz metrics olmoe.npz --topic specialization
  moeviz corpus --embedded --json | jq .label_information""",
    "params": """examples:
  moeviz params embedded
  moeviz params mistralai/Mixtral-8x7B-v0.1           well-known models need no network
  moeviz params openai/gpt-oss-120b --context 131072  memory, with keys and values for so many tokens
  moeviz params embedded --trace trace.npz            how many parameters the trace's tokens touched
  moeviz params --known                               all well-known models, next to the published figures
  moeviz params ./my-checkpoint --json | jq .total""",
    "families": """examples:
  moeviz families
  moeviz families --json | jq '.[] | select(.kernels != "yes")'
  moeviz families --check                             survey the installed transformers (a minute)""",
    "history": """examples:
  moeviz history                                      the systems that can be trained here
  moeviz history run local-experts --seed 3 -o 1991.npz
  moeviz history check                                our results next to the papers'; exit code 1 if any fails
  moeviz history check switch --quick                 one system, with less training""",
    "metrics": """examples:
  moeviz metrics trace.npz
  moeviz metrics trace.csv --topic layers --layers 0 5
  moeviz metrics trace.json --topic confidence --json | jq .""",
    "serve": """examples:
  moeviz serve cache trace.npz --capacities 2 4       hit rates of caches of two and four experts a layer
  moeviz serve cache trace.npz --chunk 16             the same where a prompt is read in chunks
  moeviz serve coverage trace.npz --batch 1 8 32      experts that a batch of tokens needs
  moeviz serve prefetch trace.npz --json | jq .[0]
  moeviz serve placement trace.npz --devices 4 --copies 4
  moeviz serve memory trace.npz --context 8192 --batch 1 32 --bits 16 8
  moeviz serve memory Qwen/Qwen3-30B-A3B --context 32768""",
    "plan": """examples:
  moeviz plan trace.npz --engine sglang --devices 4 --copies 4 -o plan.json
  moeviz plan trace.npz --engine tensorrt-llm --devices 4 --copies 4 -o plan.yaml
  moeviz plan trace.npz --engine llama.cpp --layers-on-gpu 2 -o option.txt""",
    "convert": """examples:
  moeviz convert trace.npz trace.csv
  moeviz convert routes-by-hand.csv routes.parquet
  moeviz convert trace.npz report.html                every chart in one file, for a colleague
  moeviz convert trace.npz charts.zip                 every chart as SVG and CSV
  moeviz convert response.json -o trace.npz --hidden-layers 27 --top-k 6
  moeviz convert imatrix.gguf -o counts.json --top-k 8""",
    "doctor": """examples:
  moeviz doctor trace.npz
  moeviz doctor response.json --beside trace.npz      is it a row short?
  moeviz doctor trace.csv --json | jq .[].says""",
    "diff": """examples:
  moeviz diff served.json trace.npz
  moeviz diff vllm.json transformers.npz --json | jq .shift""",
}


def parser() -> argparse.ArgumentParser:
    """The arguments of every command; `command` says which it is."""
    kind = argparse.RawDescriptionHelpFormatter
    says = "See which experts of a Mixture-of-Experts language model fire."
    top = argparse.ArgumentParser("moeviz", description=says, epilog=EXAMPLES["moeviz"], formatter_class=kind)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (says, fill) in COMMANDS.items():
        fill(commands.add_parser(name, help=says, description=says, epilog=EXAMPLES[name], formatter_class=kind))
    return top


def with_values(words: Sequence[str]) -> list[str]:
    """The words of a command, each of Streamlit's options joined to its value, which would else be taken for FILE.

    >>> with_values(["app", "--server.address", "0.0.0.0", "trace.npz"])
    ['app', '--server.address=0.0.0.0', 'trace.npz']
    """
    joined: list[str] = []
    for word in words:
        if joined and re.fullmatch(r"--\w+\.\w+", joined[-1]) and not word.startswith("-"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _app_arguments(app: argparse.ArgumentParser) -> None:
    app.add_argument("file", metavar="FILE", nargs="?", help="show this trace: a .csv, .parquet, .json or .npz file")
    app.add_argument("--port", type=_number(int, 1, 65535), default=8501, help="port to serve on (default: 8501)")
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


def _trace_arguments(trace: argparse.ArgumentParser) -> None:
    trace.add_argument("prompt", metavar="PROMPT", help="the text, or - to read it from standard input")
    trace.add_argument("-o", "--output", metavar="FILE", help="where to write the trace: .csv, .parquet, .json or .npz")
    _add_model(trace)
    trace.add_argument(
        "--max-new-tokens", type=_number(int, 0), default=0, metavar="N", help="how many tokens to generate"
    )
    trace.add_argument(
        "--temperature", type=_number(float, 0), default=0.0, metavar="T", help="0 is greedy (the default)"
    )
    trace.add_argument("--top-k", type=_number(int, 1), metavar="K", help="sample from the K most likely tokens")
    trace.add_argument(
        "--top-p",
        type=_number(float, 0, 1),
        metavar="P",
        help="sample from the most likely tokens, up to a total probability of P",
    )
    trace.add_argument(
        "--seed", type=_number(int, 0), default=0, metavar="N", help="the same seed gives the same tokens"
    )
    trace.add_argument(
        "--decoding",
        choices=("checkpoint",),
        help="generate as the checkpoint's own settings say, in place of the options above and below; --seed holds",
    )
    trace.add_argument("--num-beams", type=_number(int, 1), default=1, metavar="N", help="beam search with N beams")
    trace.add_argument(
        "--num-return-sequences",
        type=_number(int, 1),
        default=1,
        metavar="N",
        help="how many continuations to generate",
    )
    trace.add_argument("--cache", metavar="KIND", help="kind of key-value cache, as transformers names it: static …")
    trace.add_argument(
        "--prefill-chunk-size", type=_number(int, 1), metavar="N", help="read the prompt in chunks of N tokens"
    )
    trace.add_argument("--prompt-lookup", type=_number(int, 1), metavar="N", help="draft N tokens from the prompt")
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
    command.add_argument("--model", default="embedded", help="'embedded' (the default), a folder, or a Hugging Face id")
    command.add_argument(
        "--ignore-memory", action="store_true", help="load the model also where more memory is needed than is free"
    )


def _what_if_arguments(what_if: argparse.ArgumentParser) -> None:
    what_if.add_argument("prompt", metavar="PROMPT", help="the text, or - to read it from standard input")
    change = what_if.add_mutually_exclusive_group(required=True)
    change.add_argument(
        "--mute", nargs="+", metavar="LAYER:EXPERTS", help="each router takes its next best expert instead"
    )
    change.add_argument("--force", nargs="+", metavar="LAYER:EXPERTS", help="every token is sent to these experts")
    change.add_argument("--experts-per-token", type=_number(int, 1), metavar="K", help="another top-k")
    change.add_argument("--exchange", type=_number(int, 0), nargs=3, metavar=("LAYER", "EXPERT", "EXPERT"))
    change.add_argument("--precision", choices=PRECISIONS, help="run the model in another precision")
    change.add_argument("--replay", metavar="TRACE", help="use the routing of a trace of the same prompt")
    what_if.add_argument("--no-reroute", action="store_true", help="with --mute: nothing takes a muted expert's place")
    what_if.add_argument("-o", "--output", metavar="FILE", help="where to write the trace of the changed model")
    _add_model(what_if)
    what_if.add_argument("--json", action="store_true", help="print the effect as JSON")


def _ablate_arguments(ablate: argparse.ArgumentParser) -> None:
    ablate.add_argument("prompt", metavar="PROMPT", help="the text, or - to read it from standard input")
    ablate.add_argument(
        "--layers", type=_number(int, 0), nargs="+", metavar="N", help="only these layers (default: all)"
    )
    _add_model(ablate)
    ablate.add_argument("--json", action="store_true", help="print JSON")


def _precision_arguments(precision: argparse.ArgumentParser) -> None:
    precision.add_argument("prompt", metavar="PROMPT", help="the text, or - to read it from standard input")
    _add_model(precision)
    precision.add_argument("--json", action="store_true", help="print JSON")


def _corpus_arguments(corpus: argparse.ArgumentParser) -> None:
    says = (
        'a text file, labelled by its name without the suffix; or a .jsonl file with {"label": …, "text": …} on '
        "each line"
    )
    source = corpus.add_mutually_exclusive_group(required=True)
    source.add_argument("files", metavar="FILE", nargs="*", default=[], help=says)
    source.add_argument("--embedded", action="store_true", help="the held-out texts that ship with the embedded model")
    corpus.add_argument(
        "-o", "--output", metavar="FILE", help="where to write the trace: .csv, .parquet, .json or .npz"
    )
    _add_model(corpus)
    corpus.add_argument(
        "--layer", type=_number(int, 0), metavar="N", help="the layer to show (default: the most informative)"
    )
    corpus.add_argument("--json", action="store_true", help="print all tables, of all layers, as JSON")


def _params_arguments(params: argparse.ArgumentParser) -> None:
    model = params.add_mutually_exclusive_group(required=True)
    model.add_argument("model", metavar="MODEL", nargs="?", help="'embedded', a folder, or a Hugging Face id")
    model.add_argument("--known", action="store_true", help="well-known models, next to what their makers say")
    params.add_argument(
        "--context",
        type=_number(int, 1),
        default=8192,
        metavar="N",
        help="tokens in the key-value cache (default: 8192)",
    )
    params.add_argument("--trace", metavar="FILE", help="also say how many parameters the tokens of this trace touched")
    params.add_argument("--json", action="store_true", help="print JSON")


def _families_arguments(families: argparse.ArgumentParser) -> None:
    families.add_argument(
        "--check", action="store_true", help="survey the installed transformers; exit code 1 if it differs"
    )
    families.add_argument("--json", action="store_true", help="print JSON")


def _history_arguments(history: argparse.ArgumentParser) -> None:
    history.add_argument("action", nargs="?", choices=("list", "run", "check"), default="list")
    history.add_argument("name", nargs="?", help="which system to run or check (default: local-experts; all)")
    history.add_argument(
        "--seed", type=_number(int, 0), default=0, metavar="N", help="the same seed gives the same trace"
    )
    history.add_argument("-o", "--output", metavar="FILE", help="where to write the trace of a run")
    history.add_argument("--quick", action="store_true", help="check less, in seconds")
    history.add_argument("--json", action="store_true", help="print JSON")


def _metrics_arguments(metrics: argparse.ArgumentParser) -> None:
    metrics.add_argument("trace", metavar="TRACE", help="a .csv, .parquet, .json or .npz file")
    metrics.add_argument("--topic", type=_topic, choices=TOPICS, default="load", help="which topic (default: load)")
    metrics.add_argument(
        "--layers", type=int, nargs="+", metavar="N", help="only these layers, by the model's own index"
    )
    metrics.add_argument(
        "--token", type=_number(int, 0), metavar="N", help="which token, for metrics about a single token"
    )
    metrics.add_argument("--json", action="store_true", help="print JSON")


def _serve_arguments(serve: argparse.ArgumentParser) -> None:
    number, several = _number(int, 1), {"type": _number(int, 1), "nargs": "+", "metavar": "N"}
    serve.add_argument("what", choices=SERVED, help="which cost")
    serve.add_argument("file", metavar="FILE", help="a .csv, .parquet, .json or .npz file; for memory, a model too")
    serve.add_argument("--capacities", **several, help="cache: experts a layer that it holds (default: 1 to all)")
    serve.add_argument("--chunk", type=number, default=1, metavar="N", help="cache: tokens of a step (default: 1)")
    serve.add_argument("--shared", action="store_true", help="cache: one for all layers; --capacities count its places")
    serve.add_argument("--batch", **several, help="coverage: tokens of a batch; memory: sequences at a time")
    serve.add_argument("--devices", type=number, metavar="N", help="placement: how many devices (default: 8, 4 or 2)")
    serve.add_argument("--copies", type=_number(int, 0), metavar="R", help="placement: copies of experts, in all")
    serve.add_argument("--context", default=[8192], **several, help="memory: tokens of a sequence (default: 8192)")
    serve.add_argument("--bits", default=[16], **several, help="memory: of a weight (default: 16)")
    _add_phase(serve)
    serve.add_argument("--json", action="store_true", help="print the rows as JSON")


def _plan_arguments(plan: argparse.ArgumentParser) -> None:
    plan.add_argument("file", metavar="FILE", help="a .csv, .parquet, .json or .npz file")
    plan.add_argument("--engine", required=True, metavar="ENGINE", help=f"one of {', '.join(ENGINES)}")
    plan.add_argument("-o", "--output", required=True, metavar="FILE", help="where to write the plan")
    plan.add_argument("--devices", type=_number(int, 1), metavar="N", help="how many devices (default: 8, 4 or 2)")
    plan.add_argument("--copies", type=_number(int, 0), metavar="R", help="copies of experts, in all (default: N)")
    plan.add_argument("--num-layers", type=_number(int, 1), metavar="N", help="layers of the model, dense ones too")
    plan.add_argument(
        "--layers-on-gpu", type=_number(int, 0), metavar="N", help="llama.cpp: MoE layers on the GPU (default: half)"
    )
    _add_phase(plan)
    plan.add_argument("--json", action="store_true", help="print what was written as JSON")


def _add_phase(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--phase",
        choices=("auto", "generated", "prompt", "all"),
        default="auto",
        help="which tokens (default: generated ones if there are any; for chunks, those of prompts)",
    )
    command.add_argument("--no-repeats", action="store_true", help="leave out what a prefix cache would not run again")


def _convert_arguments(convert: argparse.ArgumentParser) -> None:
    convert.add_argument("source", metavar="FROM", help=f"{ANY}, or counts")
    target = convert.add_mutually_exclusive_group(required=True)
    says = "the file to write (.html: a report, .zip: all charts); an existing file is replaced"
    target.add_argument("target", metavar="TO", nargs="?", help=says)
    target.add_argument("-o", "--output", metavar="TO", help="the same")
    add_import_options(convert)


def _doctor_arguments(doctor: argparse.ArgumentParser) -> None:
    doctor.add_argument("source", metavar="FILE", help=f"{ANY}, or counts")
    doctor.add_argument(
        "--beside", metavar="FILE", help="a trace of the same tokens, to see whether rows are off by one"
    )
    doctor.add_argument("--tokens", type=_number(int, 0), metavar="N", help="how many tokens met a router")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    add_import_options(doctor)


def _diff_arguments(diff: argparse.ArgumentParser) -> None:
    diff.add_argument("source", metavar="A", help=ANY)
    diff.add_argument("other", metavar="B", help="another of the same text")
    diff.add_argument("--json", action="store_true", help="print JSON")
    add_import_options(diff)


def _topic(word: str) -> str:
    return OLD_TOPICS.get(word, word)


def _number(kind: type, low: int, high: int = 2**63) -> Callable[[str], int | float]:
    def read(text: str) -> int | float:
        number = kind(text)
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is not from {low} to {high}")
        return number

    read.__name__ = "whole number" if kind is int else "number"  # argparse says "invalid … value"
    return read


COMMANDS = {
    "app": ("Open the app in a browser. Options that moeviz does not know are passed on to Streamlit.", _app_arguments),
    "trace": ("Run a prompt through a model and record what every router decides.", _trace_arguments),
    "what-if": ("Run a prompt with the routing changed, and show the effect.", _what_if_arguments),
    "ablate": ("Mute each expert that a prompt uses, one at a time, and rank them by the effect.", _ablate_arguments),
    "precision": ("Run a prompt in other precisions: which tokens go to other experts?", _precision_arguments),
    "corpus": ("Trace labelled texts and show which experts each kind of text uses.", _corpus_arguments),
    "params": ("Count a model's parameters, total and active, from its config alone.", _params_arguments),
    "families": ("List the MoE families of transformers that moeviz can record, and how.", _families_arguments),
    "history": ("Train the systems of the past, and check them against their papers.", _history_arguments),
    "metrics": ("Print the numbers behind the app's charts, for a trace in any format.", _metrics_arguments),
    "serve": ("Say what routing costs to serve. This starts no server; the command app does.", _serve_arguments),
    "plan": ("Write the placement of experts that an inference engine reads.", _plan_arguments),
    "convert": (
        "Convert a trace, counts, or what another program wrote, to a format given by the suffix.",
        _convert_arguments,
    ),
    "doctor": (
        "Look for what is not plausible in a trace, or in counts; exit code 1 if there is any.",
        _doctor_arguments,
    ),
    "diff": (
        "Compare two recordings of the same text: two engines, precisions, training and serving.",
        _diff_arguments,
    ),
}
