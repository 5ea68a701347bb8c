"""Small made-up traces, for tests and for examples in the docs. Never shown as if a model had made them.

    python -m moeviz.testing FOLDER

writes a folder of things to try the how-tos on: texts, a prompt, a trace, counts, a dataset, and a model's folder.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

from moeviz.model_info import ModelInfo
from moeviz.routing_trace import RoutingTrace, normalised_scores, sort_slots, token_frame

OF_A_MODEL = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
WORDS = ("The", " router", " sends", " each", " token", " to", " two", " experts", ".", "\n")


def sample_trace(layers: int = 4, tokens: int = 32, top_k: int = 2, experts: int = 8, seed: int = 0) -> RoutingTrace:
    """A softmax top-k router with random logits, where some experts are favoured. The same seed gives the same trace.

    >>> sample_trace(layers=2, tokens=5).experts.shape
    (2, 5, 2)
    """
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(layers, tokens, experts)) + rng.normal(size=(layers, 1, experts))).astype(np.float32)
    chosen = np.argsort(-logits, axis=-1, kind="stable")[..., :top_k].astype(np.int16)
    scores = normalised_scores(np.take_along_axis(logits, chosen.astype(np.int64), -1), "softmax")
    chosen, weights = sort_slots(chosen, scores)
    prompt = tokens - tokens // 4
    return RoutingTrace(
        model=ModelInfo(
            name="sample",
            backend="sample",
            layers=tuple(range(layers)),
            num_experts=(experts,) * layers,
            top_k=top_k,
            score_function="softmax",
            num_layers=layers,
            dtype="float32",
        ),
        tokens=token_frame(
            sequence=np.zeros(tokens),
            position=np.arange(tokens),
            text=[WORDS[i % len(WORDS)] for i in range(tokens)],
            token_id=np.arange(tokens) % len(WORDS),
            phase=["prompt"] * prompt + ["generated"] * (tokens - prompt),
        ),
        experts=chosen,
        weights=weights,
        logits=logits,
    )


def write_examples(folder: str | Path) -> dict[str, str]:
    """Write files to try moeviz on into a new folder, and return what each is, by its name.

    Texts are held-out ones that ship with the embedded model, and the model is a copy of it; trace, counts and dataset
    are made up, by `sample_trace`. Raises `OSError` where the folder is there or cannot be made.
    """
    from moeviz.embedded import embedded_path
    from moeviz.formats.counts_file import write_counts
    from moeviz.formats.dataset.convert import write_dataset
    from moeviz.formats.exports import write_trace
    from moeviz.labelled_texts import texts_that_ship

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
        sys.stderr.write("usage: python -m moeviz.testing FOLDER\n")
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
