"""Options about files of other programs, and what is made of them."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from moeviz.cli.io import note
from moeviz.names import cut

if TYPE_CHECKING:
    from moeviz.formats.importers.options import ImportOptions
    from moeviz.formats.importers.table import Opened
    from moeviz.routing_trace import Counted, RoutingTrace

# moeviz.formats.importers.options.SAYS, known without loading numpy
HELP = {
    "top_k": ("K", "experts that a token is sent to at each layer"),
    "hidden_layers": ("N", "layers of the model, dense ones too"),
    "experts": ("E", "experts of each layer"),
    "start": ("N", "position of the first token of a response"),
    "expert_parallel": ("N", "devices that each layer's experts were divided among"),
}


def add_import_options(parser: ArgumentParser) -> None:
    """The options for what a file of another program does not say."""
    group = parser.add_argument_group(
        "files of other programs", "They are recognised by what is in them. What a file does not say is asked for:"
    )
    group.add_argument("--format", metavar="NAME", help="read it as this format, as vllm or sglang-recorder")
    for name, (metavar, says) in HELP.items():
        group.add_argument("--" + name.replace("_", "-"), dest=name, type=int, metavar=metavar, help=says)
    group.add_argument("--moe-layers", metavar="LAYERS", help="layers with experts, the first being 0: 1-26, or 1,3,5")


def options_of(args: Namespace) -> "ImportOptions":
    """What was told on the command line. Raises `InvalidTrace` for what cannot be."""
    from moeviz.formats.importers.options import ImportOptions, layers_of

    told = {name: getattr(args, name) for name in HELP}
    return ImportOptions(**told, moe_layers=layers_of(args.moe_layers) if args.moe_layers is not None else None)


def read(path: str, args: Namespace) -> "Counted":
    """The trace, or the counts, in a file."""
    from moeviz.formats.exports import read_counted

    return read_counted(path, format=args.format, options=options_of(args))


def opened(path: str, args: Namespace) -> "Opened":
    """The same with what the doctor says of it; that it is read is said, since a large file takes seconds."""
    from moeviz.formats.exports import open_path

    note(f"reading {cut(path)}")
    return open_path(path, format=args.format, options=options_of(args))


def read_one_trace(path: str, args: Namespace) -> "RoutingTrace":
    """The trace in a file. Raises `InvalidTrace` if it has counts alone."""
    from moeviz.formats.exports import read_trace

    return read_trace(path, format=args.format, options=options_of(args))
