"""The arithmetic domain: lines of sums, products, equations, sequences and comparisons, all of them right.

The order of draws is part of the corpus: two numbers are drawn for every line, also where the line draws its own.
"""

from collections.abc import Iterator
from random import Random

from models.training.corpus.sources import Document
from models.training.corpus.text_files import Packages

SEED = 3
GENERATED_DOCUMENTS = 4_200


def arithmetic_documents(packages: Packages) -> Iterator[Document]:
    """Made-up arithmetic; no package is read."""
    rng = Random(SEED)
    for number in range(GENERATED_DOCUMENTS):
        yield Document("generated", f"math {number}", arithmetic_text(rng))


def arithmetic_text(rng: Random) -> str:
    """20 to 60 lines."""
    return "\n".join(_line(rng) for _ in range(rng.randint(20, 60)))


def _line(rng: Random) -> str:
    write = rng.choice(LINES)
    a = rng.randint(0, 10 ** rng.randint(1, 4))
    b = rng.randint(0, 10 ** rng.randint(1, 3))
    return write(rng, a, b)


def _sum(rng: Random, a: int, b: int) -> str:
    return f"{a} + {b} = {a + b}"


def _difference(rng: Random, a: int, b: int) -> str:
    return f"{max(a, b)} - {min(a, b)} = {max(a, b) - min(a, b)}"


def _product(rng: Random, a: int, b: int) -> str:
    a, b = rng.randint(0, 99), rng.randint(0, 99)
    return f"{a} * {b} = {a * b}"


def _quotient(rng: Random, a: int, b: int) -> str:
    divisor, quotient = rng.randint(1, 99), rng.randint(0, 99)
    return f"{divisor * quotient} / {divisor} = {quotient}"


def _square(rng: Random, a: int, b: int) -> str:
    a = rng.randint(2, 30)
    return f"{a}^2 = {a * a}"


def _equation(rng: Random, a: int, b: int) -> str:
    x, slope, constant = rng.randint(-20, 20), rng.randint(2, 12), rng.randint(-50, 50)
    right, sign = slope * x + constant, "+" if constant >= 0 else "-"
    return f"{slope}x {sign} {abs(constant)} = {right}; {slope}x = {right - constant}; x = {x}"


def _sequence(rng: Random, a: int, b: int) -> str:
    start, step = rng.randint(0, 50), rng.randint(1, 15)
    return ", ".join(str(start + i * step) for i in range(8))


def _brackets(rng: Random, a: int, b: int) -> str:
    a, b, c = (rng.randint(1, 20) for _ in range(3))
    return f"({a} + {b}) * {c} = {a + b} * {c} = {(a + b) * c}"


def _sorting(rng: Random, a: int, b: int) -> str:
    ordered = sorted(rng.sample(range(100), 6))
    mixed = ordered.copy()
    rng.shuffle(mixed)
    return f"sort({', '.join(map(str, mixed))}) = {', '.join(map(str, ordered))}"


def _comparison(rng: Random, a: int, b: int) -> str:
    a, b = rng.randint(1, 999), rng.randint(1, 999)
    return f"{a} {'<' if a < b else '>' if a > b else '='} {b}"


LINES = (
    *(_sum, _sum, _sum, _difference, _difference, _product, _product),
    *(_quotient, _square, _equation, _sequence, _brackets, _sorting, _comparison),
)
