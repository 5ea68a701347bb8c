"""The words of random traces, and the class of each as `kind_of` should have it."""

KIND_OF = {
    **dict.fromkeys((" la", " the", " chat"), "word, space before"),
    **dict.fromkeys(("la", "ing"), "word, no space before"),
    **dict.fromkeys(("42", " 7"), "digits"),
    **dict.fromkeys((",", "="), "punctuation"),
    **dict.fromkeys(("\n", " "), "space or line break"),
    "и": "other script",
    "<s>": "special",
    **{f" w{row}": "word, space before" for row in range(40)},
}


def class_of(text: str) -> str:
    """The class of a word of a random trace, or of a text that ships."""
    if text in KIND_OF:
        return KIND_OF[text]
    inside = text.strip()
    if text[:1] + text[-1:] in ("<>", "⟨⟩", ""):
        return "special"
    if not inside:
        return "space or line break"
    if inside.isdigit():
        return "digits"
    if not any(letter.isalpha() for letter in inside):
        return "punctuation"
    if any(letter > "ɏ" for letter in inside if letter.isalpha()):
        return "other script"
    return "word, space before" if text.startswith(" ") else "word, no space before"
