"""Texts to begin with. The first is the one whose trace ships (`moeviz.embedded.recorded_routing`)."""

MIXED = "Mixed"
TELLING = (2, 20)  # layer and token of it: without that layer's expert for German, another token is likeliest
EXAMPLES = {
    MIXED: "The letter said: « Nous partons demain matin. » Er antwortete: Ich komme mit.\n"
    "def total(prices):\n    return sum(prices)\n12 + 30 = 42",
    "English": "In the beginning of the year the sea was calm, and the old captain walked along the shore.",
    "French": "Au commencement de l'année, la mer était calme, et le vieux capitaine marchait sur la plage.",
    "German": "Am Anfang des Jahres war das Meer ruhig, und der alte Kapitän ging jeden Abend am Ufer entlang.",
    "Python": 'import os\n\n\ndef read_lines(path):\n    """Return all lines of the file."""\n'
    "    with open(path) as f:\n        return [line.strip() for line in f]\n",
    "JSON": '{"name": "Ada", "born": 1815, "languages": ["English", "French"], "alive": false}',
    "SQL": "SELECT name, COUNT(*) FROM orders WHERE price > 100 GROUP BY name ORDER BY name;",
    "Arithmetic": "12 + 30 = 42\n7 * 8 = 56\n100 - 37 = 63\n144 / 12 = 12\n",
}
