"""What can be typed after the commands that read files, from metrics to training."""

import argparse

from moeviz.cli.importing import add_import_options
from moeviz.cli.numbers import number

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
SERVED = ("cache", "coverage", "prefetch", "placement", "memory")
ENGINES = ("sglang", "tensorrt-llm", "vllm-ascend", "ktransformers", "lmdeploy", "llama.cpp")  # moeviz.serving.plans


def metrics_arguments(metrics: argparse.ArgumentParser) -> None:
    """Of `moeviz metrics`."""
    metrics.add_argument("trace", metavar="TRACE", help=f"{ANY}, or counts, or a dataset's folder")
    metrics.add_argument("--topic", type=_topic, choices=TOPICS, default="load", help="which topic (default: load)")
    metrics.add_argument(
        "--layers", type=int, nargs="+", metavar="N", help="only these layers, by the model's own index"
    )
    metrics.add_argument(
        "--token", type=number(int, 0), metavar="N", help="which token, for metrics about a single token"
    )
    metrics.add_argument("--partial", action="store_true", help="of a dataset: read the shards that are whole")
    metrics.add_argument("--json", action="store_true", help="print JSON")
    add_import_options(metrics)


def serve_arguments(serve: argparse.ArgumentParser) -> None:
    """Of `moeviz serve`."""
    one, several = number(int, 1), {"type": number(int, 1), "nargs": "+", "metavar": "N"}
    serve.add_argument("what", choices=SERVED, help="which cost")
    serve.add_argument(
        "file", metavar="FILE", help="a file of a trace or of counts, or a dataset's folder; for memory, a model too"
    )
    serve.add_argument("--capacities", **several, help="cache: experts a layer that it holds (default: 1 to all)")
    serve.add_argument("--chunk", type=one, default=1, metavar="N", help="cache: tokens of a step (default: 1)")
    serve.add_argument("--shared", action="store_true", help="cache: one for all layers; --capacities count its places")
    serve.add_argument("--batch", **several, help="coverage: tokens of a batch; memory: sequences at a time")
    serve.add_argument("--devices", type=one, metavar="N", help="placement: how many devices (default: 8, 4 or 2)")
    serve.add_argument("--copies", type=number(int, 0), metavar="R", help="placement: copies of experts, in all")
    serve.add_argument("--context", default=[8192], **several, help="memory: tokens of a sequence (default: 8192)")
    serve.add_argument("--bits", default=[16], **several, help="memory: of a weight (default: 16)")
    _add_phase(serve)
    serve.add_argument("--json", action="store_true", help="print the rows as JSON")


def plan_arguments(plan: argparse.ArgumentParser) -> None:
    """Of `moeviz plan`."""
    plan.add_argument("file", metavar="FILE", help="a file of a trace or of counts, or a dataset's folder")
    plan.add_argument("--engine", required=True, metavar="ENGINE", help=f"one of {', '.join(ENGINES)}")
    plan.add_argument("-o", "--output", required=True, metavar="FILE", help="where to write the plan")
    plan.add_argument("--devices", type=number(int, 1), metavar="N", help="how many devices (default: 8, 4 or 2)")
    plan.add_argument("--copies", type=number(int, 0), metavar="R", help="copies of experts, in all (default: N)")
    plan.add_argument("--num-layers", type=number(int, 1), metavar="N", help="layers of the model, dense ones too")
    plan.add_argument(
        "--layers-on-gpu", type=number(int, 0), metavar="N", help="llama.cpp: MoE layers on the GPU (default: half)"
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
    command.add_argument("--partial", action="store_true", help="of a dataset: count the shards that are whole")
    command.add_argument("--no-repeats", action="store_true", help="leave out what a prefix cache would not run again")


def convert_arguments(convert: argparse.ArgumentParser) -> None:
    """Of `moeviz convert`."""
    convert.add_argument("source", metavar="FROM", help=f"{ANY}, or counts, or a dataset's folder")
    target = convert.add_mutually_exclusive_group(required=True)
    says = (
        "the file to write (.html: a report, .zip: all charts); an existing file is replaced. A name without a suffix: "
        "the folder of a dataset"
    )
    target.add_argument("target", metavar="TO", nargs="?", help=says)
    target.add_argument("-o", "--output", metavar="TO", help="the same")
    convert.add_argument("--partial", action="store_true", help="of a dataset: read the shards that are whole")
    convert.add_argument(
        "--weights", choices=("exact", "float16", "none"), help="in a dataset: how they are written (default: exact)"
    )
    convert.add_argument("--no-text", action="store_true", help="in a dataset: neither the tokens' texts nor their ids")
    add_import_options(convert)


def doctor_arguments(doctor: argparse.ArgumentParser) -> None:
    """Of `moeviz doctor`."""
    doctor.add_argument("source", metavar="FILE", help=f"{ANY}, or counts, or a dataset's folder")
    doctor.add_argument(
        "--beside", metavar="FILE", help="a trace of the same tokens, to see whether rows are off by one"
    )
    doctor.add_argument("--tokens", type=number(int, 0), metavar="N", help="how many tokens met a router")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    add_import_options(doctor)


def diff_arguments(diff: argparse.ArgumentParser) -> None:
    """Of `moeviz diff`."""
    diff.add_argument("source", metavar="A", help=ANY)
    diff.add_argument("other", metavar="B", help="another of the same text")
    diff.add_argument("--json", action="store_true", help="print JSON")
    add_import_options(diff)


def compare_arguments(compare: argparse.ArgumentParser) -> None:
    """Of `moeviz compare`."""
    compare.add_argument("source", metavar="A", help=ANY)
    compare.add_argument("others", metavar="B", nargs="+", help="others, best of the same text: up to seven")
    compare.add_argument("--json", action="store_true", help="print JSON")
    add_import_options(compare)


def training_arguments(training: argparse.ArgumentParser) -> None:
    """Of `moeviz training`."""
    says = "the folder of a run or its routing.jsonl; event files of TensorBoard; Megatron-LM's tokens_per_expert"
    training.add_argument("run", metavar="RUN", help=says)
    training.add_argument("--rows", type=number(int, 1), default=10, metavar="N", help="logs to print (default: 10)")
    training.add_argument("--ignore", nargs="+", default=[], metavar="KIND", help="alarms that do not count: aux_off")
    training.add_argument("--json", action="store_true", help="print JSON")
    add_import_options(training)


def _topic(word: str) -> str:
    return OLD_TOPICS.get(word, word)
