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
