"""The SQL domain: made-up statements on a small shop's tables, and the examples in PostgreSQL's documentation.

The order of draws is part of the corpus, so some choices are made among texts that have all been drawn before.
"""

from collections.abc import Iterator
from random import Random

from models.training.corpus.generated_json import day
from models.training.corpus.manuals import sql_examples
from models.training.corpus.sources import Document
from models.training.corpus.text_files import Packages
from models.training.corpus.words import CITIES, FIRST_NAMES, ITEMS, LAST_NAMES, TAGS

SEED = 2
GENERATED_DOCUMENTS = 6_500
TABLES = {
    "users": ["id", "name", "email", "age", "city", "created_at"],
    "orders": ["id", "user_id", "product_id", "quantity", "total", "status", "ordered_at"],
    "products": ["id", "name", "category", "price", "stock"],
    "employees": ["id", "first_name", "last_name", "salary", "department_id", "hired_on", "manager_id"],
    "departments": ["id", "name", "budget"],
    "events": ["id", "user_id", "kind", "payload", "ts"],
    "invoices": ["id", "order_id", "amount", "due_date", "paid"],
    "books": ["id", "title", "author_id", "year", "pages"],
    "authors": ["id", "name", "country"],
    "cities": ["id", "name", "country", "population"],
    "payments": ["id", "invoice_id", "amount", "paid_at", "method"],
}
TYPES = {
    "id": "INTEGER PRIMARY KEY",
    "name": "VARCHAR(100) NOT NULL",
    "email": "TEXT UNIQUE",
    "age": "INT",
    "price": "NUMERIC(10,2)",
    "total": "NUMERIC(12,2)",
    "salary": "DECIMAL(10,2)",
    "created_at": "TIMESTAMP DEFAULT CURRENT_TIMESTAMP",
    "payload": "JSON",
    "paid": "BOOLEAN DEFAULT FALSE",
}
OTHER_TYPES = ("TEXT", "INTEGER", "DATE", "REAL")
VALUES = {
    **dict.fromkeys(("name", "first_name"), FIRST_NAMES),
    "last_name": LAST_NAMES,
    **dict.fromkeys(("city", "country"), CITIES),
    **dict.fromkeys(("status", "kind", "method", "category", "title"), TAGS + ITEMS),
}
MONEY = ("price", "total", "amount", "salary")
AGGREGATES = ("SUM", "AVG", "MIN", "MAX", "COUNT")


def sql_documents(packages: Packages) -> Iterator[Document]:
    """Made-up statements, then PostgreSQL's examples."""
    rng = Random(SEED)
    for number in range(GENERATED_DOCUMENTS):
        yield Document("generated", f"sql {number}", sql_text(rng))
    yield from sql_examples(packages)


def sql_text(rng: Random) -> str:
    """Three to twelve statements, a blank line between them."""
    return "\n\n".join(_statement(rng) for _ in range(rng.randint(3, 12)))


def _statement(rng: Random) -> str:
    table = rng.choice(list(TABLES))
    write = rng.choice(STATEMENTS)
    columns = rng.sample(TABLES[table], rng.randint(1, min(4, len(TABLES[table]))))
    return write(rng, table, columns)


def _literal(rng: Random, column: str) -> str:
    if column in VALUES:
        return f"'{rng.choice(VALUES[column])}'"
    if column == "email":
        return f"'{rng.choice(FIRST_NAMES).lower()}@example.com'"
    if column.endswith(("_at", "_on", "date", "ts")):
        return f"'{day(rng)}'"
    if column == "paid":
        return rng.choice(["TRUE", "FALSE"])
    if column == "payload":
        return "'{}'"
    return f"{rng.uniform(1, 5000):.2f}" if column in MONEY else str(rng.randint(1, 5000))


def _condition(rng: Random, table: str, prefix: str = "") -> str:
    column = rng.choice(TABLES[table])
    name = prefix + column
    conditions = [
        f"{name} = {_literal(rng, column)}",
        f"{name} > {_literal(rng, column)}",
        f"{name} <= {_literal(rng, column)}",
        f"{name} IS NOT NULL",
        f"{name} IN ({_literal(rng, column)}, {_literal(rng, column)}, {_literal(rng, column)})",
        f"{name} BETWEEN {_literal(rng, column)} AND {_literal(rng, column)}",
        f"{name} LIKE '%{rng.choice(ITEMS)}%'",
        f"{name} <> {_literal(rng, column)}",
    ]
    return rng.choice(conditions)


def _select(rng: Random, table: str, columns: list[str]) -> str:
    wanted = rng.choice(["*", ", ".join(columns), f"DISTINCT {columns[0]}", "COUNT(*)"])
    statement = f"SELECT {wanted}\nFROM {table}"
    if rng.random() < 0.8:
        statement += f"\nWHERE {_condition(rng, table)}"
        if rng.random() < 0.5:
            statement += f"\n  {rng.choice(['AND', 'OR'])} {_condition(rng, table)}"
    if rng.random() < 0.4:
        statement += f"\nORDER BY {columns[0]}{rng.choice([' DESC', ' ASC', ''])}"
    if rng.random() < 0.3:
        statement += f"\nLIMIT {rng.choice([1, 5, 10, 20, 100])}"
    return f"{statement};"


def _insert(rng: Random, table: str, columns: list[str]) -> str:
    rows = [", ".join(_literal(rng, column) for column in TABLES[table]) for _ in range(rng.randint(1, 4))]
    values = ",\n       ".join(f"({row})" for row in rows)
    return f"INSERT INTO {table} ({', '.join(TABLES[table])})\nVALUES {values};"


def _update(rng: Random, table: str, columns: list[str]) -> str:
    values = ", ".join(f"{column} = {_literal(rng, column)}" for column in columns)
    return f"UPDATE {table}\nSET {values}\nWHERE {_condition(rng, table)};"


def _delete(rng: Random, table: str, columns: list[str]) -> str:
    return f"DELETE FROM {table} WHERE {_condition(rng, table)};"


def _create_table(rng: Random, table: str, columns: list[str]) -> str:
    lines = ",\n  ".join(f"{column} {_type(rng, column)}" for column in TABLES[table])
    return f"CREATE TABLE {table} (\n  {lines}\n);"


def _type(rng: Random, column: str) -> str:
    other = "INTEGER" if column.endswith("_id") else rng.choice(OTHER_TYPES)
    return TYPES.get(column, other)


def _aggregate(rng: Random, table: str, columns: list[str]) -> str:
    group, function, column = rng.choice(TABLES[table]), rng.choice(AGGREGATES), columns[0]
    return (
        f"SELECT {group}, {function}({column}) AS {function.lower()}_{column}\nFROM {table}\nGROUP BY {group}\n"
        f"HAVING {function}({column}) > {rng.randint(1, 1000)};"
    )


def _join(rng: Random, table: str, columns: list[str]) -> str:
    other = rng.choice(list(TABLES))
    return (
        f"SELECT a.{columns[0]}, b.{rng.choice(TABLES[other])}\nFROM {table} AS a\n"
        f"{rng.choice(['INNER', 'LEFT', 'LEFT OUTER'])} JOIN {other} AS b ON a.{rng.choice(TABLES[table])} = b.id\n"
        f"WHERE {_condition(rng, table, 'a.')};"
    )


def _other(rng: Random, table: str, columns: list[str]) -> str:
    statements = [
        f"CREATE INDEX idx_{table}_{columns[0]} ON {table} ({', '.join(columns)});",
        f"ALTER TABLE {table} ADD COLUMN {rng.choice(TAGS)} TEXT;",
        f"DROP TABLE IF EXISTS {table};",
        "BEGIN;",
        "COMMIT;",
        f"WITH recent AS (\n  SELECT * FROM {table} WHERE {_condition(rng, table)}\n)\nSELECT COUNT(*) FROM recent;",
        f"-- {rng.choice(['list', 'count', 'update', 'remove'])} {table}\nSELECT COUNT(*) FROM {table};",
    ]
    return rng.choice(statements)


STATEMENTS = (
    *(_select, _select, _select, _insert, _update),
    *(_delete, _create_table, _aggregate, _join, _other),
)
