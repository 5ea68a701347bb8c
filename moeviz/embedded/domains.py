"""The kinds of text that the embedded model was trained on, and their names for readers."""

DOMAINS = {
    "english_prose": "English prose",
    "technical_english": "technical English",
    "dictionary": "dictionary",
    "python": "Python",
    "c": "C",
    "javascript": "JavaScript",
    "html": "HTML",
    "json": "JSON",
    "sql": "SQL",
    "french": "French",
    "german": "German",
    "spanish": "Spanish",
    "russian": "Russian",
    "chinese": "Chinese",
    "arithmetic": "arithmetic",
}
