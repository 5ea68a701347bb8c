"""The JSON domain: MDN's browser compatibility data, and made-up records of the kinds that programs exchange.

Both draw from one seeded stream, so the order of draws is part of the corpus: whoever moves a draw changes every text
after it.
"""

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from models.training.corpus.sources import Document
from models.training.corpus.text_files import Packages
from models.training.corpus.words import CITIES, FIRST_NAMES, ITEMS, LAST_NAMES, TAGS

SEED = 1
GENERATED_DOCUMENTS = 3_600
COMPATIBILITY_TOPICS = ("api", "css", "html", "http", "javascript", "svg")
COMPATIBILITY_DOCUMENTS = 1_500
COMPATIBILITY_LENGTH = 3_500  # characters: what is longer repeats itself
MOST_RECORDS = 6
LEVELS = ("INFO", "WARN", "ERROR", "DEBUG")
SERVICES = ("auth", "api", "db", "cache", "web")
MESSAGES = (
    *("connection closed", "request completed", "user logged in"),
    *("timeout while reading", "cache miss", "retrying"),
)

Record = dict[str, Any]


def json_documents(packages: Packages) -> Iterator[Document]:
    """Compatibility data, then made-up records."""
    rng = Random(SEED)
    yield from _compatibility(packages, rng)
    for number in range(GENERATED_DOCUMENTS):
        yield Document("generated", f"json {number}", json_text(rng))


def _compatibility(packages: Packages, rng: Random) -> Iterator[Document]:
    data = json.loads((packages["@mdn/browser-compat-data"] / "package/data.json").read_bytes())
    features = [feature for topic in COMPATIBILITY_TOPICS for feature in data.get(topic, {}).items()]
    rng.shuffle(features)
    for name, feature in features[:COMPATIBILITY_DOCUMENTS]:
        text = json.dumps({name: feature}, indent=rng.choice([2, 2, 4]))
        yield Document("bcd", name, text[:COMPATIBILITY_LENGTH])


def json_text(rng: Random) -> str:
    """One to six made-up records: alone, in a list, in an envelope, or one a line."""
    count = rng.randint(1, MOST_RECORDS)
    records = [rng.choice(RECORDS)(rng) for _ in range(count)]
    content: Record | list[Record] = records
    if count == 1:
        content = records[0]
    elif rng.random() < 0.3:
        content = {"data": records, "total": count}
    if isinstance(content, list) and rng.random() < 0.25:
        return "\n".join(json.dumps(record) for record in content)
    return json.dumps(content, indent=rng.choice([None, 2, 2, 4]))


def day(rng: Random) -> str:
    """A date from 1995 to 2025, as ISO 8601 writes it."""
    return f"{rng.randint(1995, 2025)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"


def _person(rng: Random) -> Record:
    return {
        "id": rng.randint(1, 99999),
        "name": f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}",
        "email": f"{rng.choice(FIRST_NAMES).lower()}.{rng.choice(LAST_NAMES).lower()}@example.{_top_domain(rng)}",
        "age": rng.randint(18, 90),
        "active": rng.random() < 0.5,
        "city": rng.choice(CITIES),
    }


def _top_domain(rng: Random) -> str:
    return rng.choice(["com", "org", "net"])


def _product(rng: Random) -> Record:
    return {
        "sku": f"{rng.choice('ABCDEFGH')}{rng.randint(100, 999)}-{rng.randint(10, 99)}",
        "title": rng.choice(ITEMS),
        "price": round(rng.uniform(1, 999), 2),
        "stock": rng.randint(0, 500),
        "tags": rng.sample(TAGS, rng.randint(0, 4)),
    }


def _place(rng: Random) -> Record:
    coordinates = [round(rng.uniform(-180, 180), 4), round(rng.uniform(-90, 90), 4)]
    return {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": coordinates},
        "properties": {"name": rng.choice(CITIES), "population": rng.randint(1000, 9000000)},
    }


def _log_line(rng: Random) -> Record:
    return {
        "timestamp": f"{day(rng)}T{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}Z",
        "level": rng.choice(LEVELS),
        "service": rng.choice(SERVICES),
        "message": rng.choice(MESSAGES),
        "duration_ms": rng.randint(1, 5000),
    }


def _manifest(rng: Random) -> Record:
    return {
        "name": rng.choice(ITEMS) + "-" + rng.choice(TAGS),
        "version": f"{rng.randint(0, 9)}.{rng.randint(0, 20)}.{rng.randint(0, 20)}",
        "license": rng.choice(["MIT", "BSD-3-Clause", "Apache-2.0"]),
        "scripts": {"build": "tsc -p .", "test": "jest", "start": "node index.js"},
        "dependencies": _dependencies(rng, rng.randint(1, 4)),
    }


def _dependencies(rng: Random, count: int) -> dict[str, str]:
    return {rng.choice(ITEMS): f"^{rng.randint(1, 9)}.{rng.randint(0, 9)}.0" for _ in range(count)}


def _order(rng: Random) -> Record:
    return {
        "order": rng.randint(1000, 9999),
        "customer": {"first": rng.choice(FIRST_NAMES), "last": rng.choice(LAST_NAMES)},
        "items": [_order_item(rng) for _ in range(rng.randint(1, 3))],
        "shipped": rng.choice([True, False, None]),
    }


def _order_item(rng: Random) -> Record:
    return {"item": rng.choice(ITEMS), "qty": rng.randint(1, 9), "price": round(rng.uniform(1, 200), 2)}


def _server(rng: Random) -> Record:
    return {
        "host": f"{rng.choice(['db', 'web', 'cache'])}{rng.randint(1, 20)}.example.com",
        "port": rng.choice([80, 443, 5432, 6379, 8080]),
        "ssl": rng.random() < 0.5,
        "timeout": rng.randint(1, 60),
        "options": {"retries": rng.randint(0, 5), "mode": rng.choice(["fast", "safe"])},
    }


def _measurements(rng: Random) -> Record:
    return {
        "date": day(rng),
        "values": [rng.randint(0, 100) for _ in range(rng.randint(2, 8))],
        "mean": round(rng.uniform(0, 100), 3),
        "unit": rng.choice(["kg", "m", "s", "C", "%"]),
    }


RECORDS = (_person, _product, _place, _log_line, _manifest, _order, _server, _measurements)
