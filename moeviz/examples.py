"""Things to try the how-tos on, written by one command: texts, a prompt, a trace, counts, a dataset, a model's folder.

python -m moeviz.examples FOLDER
"""

import json
import shutil
import sys
from pathlib import Path

from moeviz.embedded import embedded_path
from moeviz.formats.counts_file import write_counts
from moeviz.formats.dataset.convert import write_dataset
from moeviz.formats.exports import write_trace
from moeviz.labelled_texts import texts_that_ship
from moeviz.testing import sample_trace

OF_A_MODEL = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def write_examples(folder: str | Path) -> dict[str, str]:
    """Write files to try moeviz on into a new folder, and return what each is, by its name.

    Texts are held-out ones that ship with the embedded model, and the model is a copy of it; trace, counts and dataset
    are made up, by `sample_trace`. Raises `OSError` where the folder is there or cannot be made.
    """
    target, texts = Path(folder), texts_that_ship()
    target.mkdir(parents=True)
    lines = [json.dumps({"label": label, "text": text}, ensure_ascii=False) for label, text in texts]
    (target / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (target / "prompt.txt").write_text("Il fait froid à Paris.", encoding="utf-8")
    first = dict(reversed(texts))  # of each label
    for label in ("French", "German", "Python"):
        (target / f"{label.lower()}.txt").write_text(first[label], encoding="utf-8")
    trace = sample_trace()
    write_trace(trace, target / "trace.npz")
    write_counts(trace.counts(), target / "counts.json")
    write_dataset(trace, str(target / "dataset"))
    (target / "model").mkdir()
    for name in OF_A_MODEL:
        shutil.copyfile(embedded_path() / name, target / "model" / name)
    return {
        "texts.jsonl": f"{len(texts)} texts of {len(first)} kinds, a line each",
        "french.txt, german.txt, python.txt": "one text of a kind",
        "prompt.txt": "a prompt, for -f",
        "trace.npz, counts.json, dataset/": "a made-up routing in three forms",
        "model/": "a checkpoint of transformers' kind: the embedded model",
    }


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
