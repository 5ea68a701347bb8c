"""CSV: the long table of a trace as text that pandas, R, a database and a spreadsheet read.

The columns are those of `moeviz.formats.assignments_table`, and a last one, `about`: the model's facts as JSON in the
last row, out of a spreadsheet's sight, and a word on that in the first, so that a file that was cut is noticed. With
them the file opens here as the same trace, also if its rows were sorted. `plain` leaves the column out. Texts are
quoted, numbers are not; weights have as many digits as float32 needs, and no more.

A spreadsheet runs a cell that starts with = + - or @ as a formula, and a token may be just that. So a text that starts
like that, in any of their forms and behind any blanks and invisible characters, or with a tab, a line break or an
apostrophe, gets an apostrophe in front, which is removed when it is read.

`pandas.read_csv` turns tokens such as `null` and `NA` into missing values. To keep them, call it with
`keep_default_na=False, na_values={"weight": "", "logit": "", "probability": ""}`.
"""

import json
from collections.abc import Iterable, Sequence
from io import BytesIO

import pandas as pd
import pyarrow as pa
from pyarrow import csv

from moeviz.errors import InvalidTrace
from moeviz.file_limits import MAX_BYTES
from moeviz.formats.assignments_table import check_cells, table_of, trace_of_table
from moeviz.formats.table_facts import NUMBERS, TEXTS, check_names, facts_beside_table, short_floats
from moeviz.formats.trace_facts import check_facts_size, check_size, parse_json
from moeviz.routing_trace import RoutingTrace
from moeviz.spreadsheets import escape_formula

ABOUT, IN_LAST_ROW = "about", "facts in the last row"
ESCAPED = tuple(name for name in TEXTS if name != "phase")
MAX_COLUMNS = 100
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # Excel begins a UTF-8 file with one


def to_csv(trace: RoutingTrace, plain: bool = False) -> bytes:
    """Write the long table of a trace as CSV in UTF-8; `plain`: without the facts that open it as the same trace."""
    table = table_of(trace)
    columns = {name: _cells(name, table[name]) for name in map(str, table)}
    rows: Iterable[Sequence[str]] = zip(*columns.values(), strict=True)
    if not plain:
        about = _quote(json.dumps(facts_beside_table(trace), ensure_ascii=False))
        columns[ABOUT] = [IN_LAST_ROW, *[""] * (len(table) - 2), about][-max(len(table), 1) :]
        rows = zip(*columns.values(), strict=True) if len(table) else [[""] * (len(columns) - 1) + [about]]
    return "".join(f"{','.join(row)}\n" for row in [list(columns), *rows]).encode()


def from_csv(data: bytes, max_bytes: int = MAX_BYTES) -> RoutingTrace:
    """Read a trace from `to_csv`, or from any CSV with the columns `position`, `layer` and `expert`.

    See `moeviz.formats.assignments_table.trace_of_table` for what a plain table can leave out, and for the errors.
    `max_bytes` is the most that the file may have, and that its rows may take while they are read.
    """
    check_size(data, max_bytes)
    table = _parse_table(data, max_bytes)
    if ABOUT not in table or table[ABOUT].isna().all():
        return trace_of_table(table.drop(columns=ABOUT, errors="ignore"), max_bytes=max_bytes)
    cells = table[ABOUT].dropna()
    facts_cells = cells[cells != IN_LAST_ROW]
    if not len(facts_cells):
        raise InvalidTrace(
            "The file ends before the row with the facts about the model, so it was cut. Save it again, or remove the "
            "column 'about' to read the rows that are there."
        )
    about = facts_cells.iloc[0].encode()
    check_facts_size(len(about), "column 'about'", max_bytes)
    facts = parse_json(about, "column 'about'")
    if "expert" in table and facts.get("rows") == 0:
        table = table[table["expert"].notna()]
    for name in ESCAPED:
        if name in table:
            table[name] = table[name].str.removeprefix("'")
    return trace_of_table(table, facts, max_bytes)


def _cells(name: str, column: pd.Series) -> list[str]:
    if name in NUMBERS:
        return ["" if number != number else repr(number) for number in short_floats(column.to_numpy()).tolist()]
    if name in ESCAPED:
        return [_quote(escape_formula(text)) for text in column]
    return [_quote(text) for text in column] if name in TEXTS else [str(number) for number in column.tolist()]


def _quote(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _parse_table(data: bytes, max_bytes: int) -> pd.DataFrame:
    """Read every cell as text; an empty cell without quotes is missing. The first row names the columns."""
    data = data.removeprefix(BYTE_ORDER_MARK)
    if data.partition(b"\n")[0].count(b",") >= MAX_COLUMNS:
        raise InvalidTrace(
            f"The first line names more than {MAX_COLUMNS} columns, so this is not the table of a trace. Give a CSV "
            "with one row per chosen expert."
        )
    check_cells(data.count(b"\n"), data.partition(b"\n")[0].count(b",") + 1, max_bytes)
    try:
        table: pd.DataFrame = csv.read_csv(
            BytesIO(data if data.endswith(b"\n") else data + b"\n"),
            csv.ReadOptions(autogenerate_column_names=True, block_size=len(data) + 1),
            csv.ParseOptions(newlines_in_values=True),
            csv.ConvertOptions(
                column_types={f"f{i}": pa.string() for i in range(MAX_COLUMNS)},
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        ).to_pandas()
    except pa.ArrowException as error:
        raise InvalidTrace(
            f"This is not a CSV table in UTF-8: {str(error)[:200]}. Save it as CSV in that encoding."
        ) from error
    names = [str(name).strip() for name in table.iloc[0].fillna("")]
    check_names(names)
    return table.iloc[1:].reset_index(drop=True).set_axis(names, axis=1)
