"""`python -m moeviz.examples FOLDER`: write the examples, and say what they are."""

import sys

from moeviz.examples import write_examples


def main(words: list[str]) -> int:
    """Write the examples into the folder that the one word names, and say what they are; return the exit code."""
    if len(words) != 1 or words[0].startswith("-"):
        sys.stderr.write("usage: python -m moeviz.examples FOLDER\n")
        return 2
    try:
        made = write_examples(words[0])
    except OSError as error:
        sys.stderr.write(f"moeviz: {error.strerror}: {error.filename}. Name a new folder.\n")
        return 3
    sys.stdout.writelines(f"{words[0]}/{name}: {says}\n" for name, says in made.items())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
