"""All ways of running, on which architectures each is tried, what came of it, and the table of it that is kept."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import transformers

from moeviz.errors import MoevizError
from survey import concurrency_cases, model_variants, modes
from survey.architectures import KNOWN_TROUBLE
from survey.compare import EQUAL, NOT_TRIED, REFUSED, WRONG
from survey.tiny_models import architectures

TABLE = Path(__file__).with_name("ways.csv")
EVERYWHERE: dict[str, Callable[[str], str]] = model_variants.EVERYWHERE | concurrency_cases.EVERYWHERE
WAYS: dict[str, Callable[[str], str]] = modes.WAYS | model_variants.WAYS | EVERYWHERE
OTHER = "other exceptions"
FEW = ("mixtral", "deepseek_v3", "gpt_oss")  # for what takes a compiler seconds


class Cell(NamedTuple):
    """What one way of running one architecture came to."""

    way: str
    architecture: str
    outcome: str  # EQUAL, REFUSED, WRONG, NOT_TRIED or OTHER
    says: str  # the sentence that refuses it, how the trace is wrong, or why it was not tried


def tried_on(way: str) -> list[str]:
    """The architectures on which a way of running is tried."""
    if way.startswith("torch.compile"):
        return list(FEW)
    if way not in EVERYWHERE:
        return list(modes.FAMILIES)
    return [name for name in architectures() if name not in KNOWN_TROUBLE]


def outcome(way: str, architecture: str) -> Cell:
    """Run it once."""
    try:
        kind, _, says = WAYS[way](architecture).partition(": ")
    except MoevizError as error:
        kind, says = REFUSED, str(error)
    except Exception as error:  # counted, so that the survey goes on
        kind, says = OTHER, f"{type(error).__name__}: {error}"
    return Cell(way, architecture, kind, says)


def cells(ways: Iterable[str] = WAYS, names: Iterable[str] = ()) -> Iterator[Cell]:
    """Every cell of these ways, on these architectures; on all that each is tried on where none are named."""
    for way in ways:
        for name in list(names) or tried_on(way):
            yield outcome(way, name)


def summed(found: Iterable[Cell]) -> pd.DataFrame:
    """A row a way. Columns: way · equal · refused · not_tried · wrong · other (numbers of architectures)."""
    frame = pd.DataFrame(found, columns=Cell._fields)
    counts = frame.groupby(["way", "outcome"], sort=False).size().unstack(fill_value=0)
    counts = counts.reindex(columns=[EQUAL, REFUSED, NOT_TRIED, WRONG, OTHER], fill_value=0)
    return counts.rename(columns={NOT_TRIED: "not_tried", OTHER: "other"}).reset_index()


def counted(table: pd.DataFrame) -> str:
    """The sum of all rows in a sentence."""
    total = table.sum(numeric_only=True)
    tried = total.sum() - total["not_tried"]
    return (
        f"{total[EQUAL]:,} equal of {tried:,}, {total[REFUSED]:,} refused, {total[WRONG]:,} wrong, "
        f"{total['other']:,} {OTHER}; {total['not_tried']:,} cells cannot be tried"
    )


def write_ways(table: pd.DataFrame) -> None:
    """Put these rows into the table that is kept, in the place of those of the same ways."""
    others = surveyed_ways() if TABLE.exists() else table[:0]
    table = pd.concat([others[~others["way"].isin(table["way"])], table]).set_index("way")
    table = table.loc[[way for way in WAYS if way in table.index]].reset_index()
    TABLE.write_text(f"# transformers {transformers.__version__}\n{table.to_csv(index=False)}")


def surveyed_ways() -> pd.DataFrame:
    """The table that is kept; columns as in `summed`."""
    return pd.read_csv(TABLE, comment="#")
