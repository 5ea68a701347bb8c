"""What `moeviz families` says: which families are read, and whether that holds for the installed transformers."""

from moeviz.capture.routers.families import families, surveyed_version
from moeviz.cli.terminal import frame_text


def table_text() -> str:
    """The table of families, and how many are exact."""
    table = families()
    shown = table.drop(columns="remark").replace("", "·")
    exact, kernels = (table[name].eq("yes").groupby(table["architecture"]).all() for name in ("exact", "kernels"))
    return (
        f"{frame_text(shown)}\n\n"
        f"In transformers {surveyed_version()}, {exact.sum()} of {len(exact)} architectures are recorded exactly as "
        f"their experts receive it; moeviz's kernels run {kernels.sum()} of them."
    )


def differences() -> str:
    """How a survey of the installed transformers differs from the table; "" where it does not."""
    import transformers

    from moeviz.capture.survey.table import table_of
    from moeviz.capture.survey.tiny_models import architectures

    transformers.logging.set_verbosity_error()
    both = table_of(architectures()).merge(families(), how="outer", indicator="where")
    names = {"left_only": "here", "right_only": f"in {surveyed_version()}"}
    unlike = both[both["where"] != "both"]
    return "" if unlike.empty else frame_text(unlike.assign(where=unlike["where"].astype("str").map(names)))
