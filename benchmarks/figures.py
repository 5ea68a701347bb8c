"""Figures of the documents, one function each: python -m benchmarks.figures NAME [--times N] [--folder FOLDER]

precision    tokens with other experts in another precision, by layer, on the evaluation set
what-if      the loss of each kind of text without the expert that it uses most, and that of the others
memory       bytes that recording 131,072 tokens keeps, and memory of this process after many captures
training     CPU time of a training step with `RoutingHealth` / without, in turns, and what it keeps
together     random streams that decode together: is each what it is alone? (an error where one is not)
ids          how many tokens a table guesses from the experts of a token, and from another token's
lineage      memory of finding again what was done to a made-up checkpoint of several gigabytes
quantised    sets of experts of the embedded model in llama.cpp, by the type of its weights (extra gguf)
llama.cpp    milliseconds per token with llama.cpp listened to / not, in turns (extra gguf)
mlx          the same for mlx-lm, in float32 and in 4 bits (extra mlx)
ray          seconds to the first shard of a corpus and tokens per second after it, by actors of Ray (extra ray)
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.harness import interleave, quartiles, ratios, table
from moeviz import Mute, load_model, trace, trace_corpus
from moeviz.embedded import embedded_path
from moeviz.embedded.evaluation import DOMAINS, evaluation_set

Args = argparse.Namespace
FIGURES: dict[str, tuple[Callable[[Args], None], int]] = {}  # and how many times, by default


def figure(name: str, times: int) -> Callable[[Callable[[Args], None]], Callable[[Args], None]]:
    """Enter a figure in the table."""

    def enter(measure: Callable[[Args], None]) -> Callable[[Args], None]:
        FIGURES[name] = measure, times
        return measure

    return enter


@figure("precision", 1_500)
def precision(args: Args) -> None:
    """Use the first --times characters of each evaluation text."""
    from moeviz.analyses.precisions import in_precisions
    from moeviz.checks import precision_table

    model, texts = load_model(), [text.text[: args.times] for text in evaluation_set()]
    parts = [precision_table(in_precisions(model, texts[at : at + 15])) for at in range(0, len(texts), 15)]
    every = pd.concat(parts)
    shares = every.columns.drop(["precision", "layer", "tokens"])
    weighted = every[shares].mul(every["tokens"], axis=0).assign(**every[["precision", "layer", "tokens"]])
    sums = weighted.groupby(["precision", "layer"], sort=False).sum()
    print(sums[shares].div(sums["tokens"], axis=0).mul(100).round(2).assign(tokens=sums["tokens"]).to_string())
    print("In percent of the tokens; overlap: of the float32 choice's experts.")


@figure("what-if", len(DOMAINS))
def without_favourites(args: Args) -> None:
    """For the first --times kinds of text: mute the expert whose share is furthest above the others' shares."""
    from moeviz.analyses.what_if import what_if
    from moeviz.metrics.specialization import load_by_label

    model, first = load_model(), {text.label: text.text[:600] for text in reversed(evaluation_set())}
    texts, won, rows = {label: first[label] for label in DOMAINS.values()}, 0, []
    load = load_by_label(trace_corpus(model, texts.items()))

    def lost(text: str, mute: Mute) -> float:
        effect = what_if(model, text, mute).effect
        return float((effect["loss_changed"] - effect["loss"]).mean())

    for label in [*texts][: args.times]:
        mine = load[load["label"] == label].set_index(["layer", "expert"])["share"]
        layer, expert = (mine - load[load["label"] != label].groupby(["layer", "expert"])["share"].mean()).idxmax()
        cut = {int(layer): (int(expert),)}
        changes = {name: lost(text, Mute(cut)) for name, text in texts.items()}
        own, others = changes.pop(label), [*changes.values()]
        silent = lost(texts[label], Mute(cut, reroute=False))
        won += own > statistics.mean(others)
        figures = (f"{value:+.3f}" for value in (own, statistics.mean(others), max(others), silent))
        rows.append([label, str(layer), str(expert), f"{mine[layer, expert]:.0%}", *figures])
    print(
        table(
            [
                "muted for",
                "layer",
                "expert",
                "its share",
                "that kind",
                "others, mean",
                "others, most",
                "nothing instead",
            ],
            rows,
        )
    )
    print(f"\n{won} of {len(rows)} kinds lose more by it than the others do.")


@figure("memory", 1_000)
def memory(args: Args) -> None:
    """Routers shaped like Qwen3-30B-A3B's, in a model that is small otherwise; then --times captures."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    from moeviz.capture.record.hooks import listen

    layers, experts, top_k, shape = 48, 128, 8, (256, 512)
    small = dict.fromkeys(("hidden_size", "intermediate_size", "moe_intermediate_size", "head_dim"), 8)
    small |= dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 1)
    routers = {"num_hidden_layers": layers, "num_experts": experts, "num_experts_per_tok": top_k}
    stack, tokens = Qwen3MoeForCausalLM(Qwen3MoeConfig(vocab_size=64, **small, **routers)).eval(), shape[0] * shape[1]
    with torch.no_grad(), listen(stack) as recording:
        stack(input_ids=torch.randint(64, shape), use_cache=False, logits_to_keep=1)
    parts = [part for heard in recording.outputs for part in (*heard.experts, *heard.weights, *heard.logits)]
    kept = sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}.values())
    print(f"{tokens:,} tokens, {layers} layers, {top_k} of {experts} experts: ids and weights {kept:,} bytes")
    closed = layers * tokens * top_k * (2 + 4)  # int16 ids, float32 weights
    print(f"closed form, 6 bytes an assignment: {closed:,}; logits would add {layers * tokens * experts * 4:,}")
    model, every = load_model(), max(1, args.times // 10)
    for done in range(args.times + 1):
        trace(model, "The quick brown fox jumps over the lazy dog. " * 5)
        if done % every == 0:
            resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
            print(f"{done:>6} captures  {resident / 2**20:8.1f} MiB resident", flush=True)


@figure("training", 60)
def training(args: Args) -> None:
    """One model, so that nothing else differs; --times rounds, a log every ten steps."""
    from moeviz.training import RoutingHealth

    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, {args.times} rounds, embedded model, a log every 10 steps\n")
    rows = []
    for tokens in (1_024, 4_096):
        with tempfile.TemporaryDirectory() as out:
            model, watched = load_model().model.train(), 0
            health, optimizer = RoutingHealth(model, Path(out)), torch.optim.AdamW(model.parameters(), 1e-5)
            ids = torch.randint(3, model.config.vocab_size, (tokens // 256, 256))

            def seconds(watch: bool, model=model, health=health, optimizer=optimizer, ids=ids) -> float:
                nonlocal watched
                health.close()
                if watch:
                    health.recorder._hook_model(model)
                start = time.process_time()
                loss = model(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids), use_cache=False).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                if watch:
                    watched += 1
                    health.step()
                    if watched % 10 == 0:
                        health.report(loss)
                return time.process_time() - start

            times = interleave({"with": partial(seconds, True), "without": partial(seconds, False)}, args.times, 2)
            counters = [part for each in health.recorder.counters.values() for part in (each.counts, each.sums)]
            held = sum(part.nbytes for part in (*counters, health._sums, health._aux, health.recorder.aux))
            middle, half = quartiles(ratios(times, "with", "without"))
            step = f"{1000 * statistics.median(times['without']):.0f}"
            a_step = counters[0].numel() * torch.int32.itemsize
            rows.append([f"{tokens:,}", step, f"{middle:.3f}", half, f"{held:,}", f"{a_step:,}"])
    print(table(["tokens", "step (ms)", "with / without", "middle half", "bytes held", "a step"], rows))


@figure("together", 500)
def together(args: Args) -> None:
    """Let --times streams of random lengths, seeds and settings begin, go on and be left in an order of chance.

    They are of the embedded model and of tiny ones of four families, and each is compared with its quiet trace. Printed
    are, for each model, the number of streams that are equal bit for bit, the largest difference of weights and logits
    (as a share of the largest), and each stream that departs from the quiet one, with how near that decision was.
    """
    sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
    from forks import FAMILIES, asked_at_random, found_alike, opened

    torch.set_num_threads(1)
    holds = True
    for family in FAMILIES:
        model, chance, streams = opened(family), random.Random(family), []
        while len(streams) < args.times // len(FAMILIES):
            streams += found_alike(model, [asked_at_random(chance) for _ in range(20)], chance)
        largest = " ".join(f"{of} {max(getattr(one, of) for one in streams):.1e}" for of in ("weights", "logits"))
        equal = sum(one.token is None and not one.weights and not one.logits for one in streams)
        print(
            f"{family:12} {len(streams)} streams, {equal} equal bit for bit; largest difference: {largest}", flush=True
        )
        for one in streams:
            holds &= one.holds
            if one.token is not None or not one.holds:
                print(f"    {one}", flush=True)
    if not holds:
        raise SystemExit("Some differ by more than docs/deployment.md says.")


@figure("ids", 4)
def ids(_args: Args) -> None:
    """Measure how much of a text the ids of its tokens' experts give away, without texts and token ids.

    A table from the experts of a token at all layers to the commonest token that had them, and if none had, at all
    layers but the last, and so on. It is learnt on three of the four held-out texts of each kind and judged on the
    fourth, each text once, next to the commonest token, and to the experts of some other token. Trained decoders get
    far more of a larger model: 63% of tokens, and 91% from 32 in a row (arXiv 2602.04105).
    """
    from moeviz.labelled_texts import texts_that_ship

    recorded = trace_corpus(load_model(), texts_that_ship())
    sets, tokens = np.sort(recorded.experts, axis=2).transpose(1, 0, 2), recorded.tokens["token_id"].tolist()
    experts = [tuple(layer.tobytes() for layer in token) for token in sets]
    label = recorded.tokens.groupby("sequence")["label"].first()
    fold = (label.groupby(label).cumcount() % 4).loc[recorded.tokens["sequence"]].to_numpy()
    rng, right = np.random.default_rng(0), Counter()
    for number in range(4):
        found: defaultdict[tuple[bytes, ...], Counter[int]] = defaultdict(Counter)
        for at in np.flatnonzero(fold != number).tolist():
            for layers in range(len(experts[at]) + 1):
                found[experts[at][:layers]][tokens[at]] += 1
        commonest = {given: counts.most_common(1)[0][0] for given, counts in found.items()}
        judged = np.flatnonzero(fold == number).tolist()
        for at, other in zip(judged, rng.permutation(judged).tolist(), strict=True):
            for name, given in {"its own": experts[at], "no": (), "another token's": experts[other]}.items():
                known = next(given[:n] for n in range(len(given), -1, -1) if given[:n] in commonest)
                right[name] += commonest[known] == tokens[at]
    print(f"{len(tokens):,} tokens, each guessed by a table of about {len(tokens) * 3 // 4:,} tokens of other texts\n")
    print(table(["told", "right"], [[f"{name} experts", f"{n / len(tokens):.1%}"] for name, n in right.items()]))


HIDDEN, WIDTH, EXPERTS, CUT, AVERAGED = 2048, 1024, 16, 3, (0, 1)  # of each layer one is cut, and two are averaged
SHAPES = {"gate_proj": (WIDTH, HIDDEN), "up_proj": (WIDTH, HIDDEN), "down_proj": (HIDDEN, WIDTH)}
RUN = """
import json, re, sys
from moeviz.analyses.lineage import lineage
table = lineage(*sys.argv[1:]).table if len(sys.argv) > 1 else None
told = [] if table is None else table[["layer", "expert", "what", "base_experts"]].values.tolist()
peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]  # ru_maxrss would be the parent's too
print(json.dumps([int(peak) * 1024, told]))
"""


def matrix(layer: int, experts: tuple[int, ...], name: str) -> np.ndarray:
    """Return one matrix of an expert, or of some averaged: the same whenever it is asked for."""
    drawn = (np.random.default_rng([layer, expert, sorted(SHAPES).index(name)]) for expert in experts)
    return np.mean([rng.standard_normal(SHAPES[name], np.float32) * 0.02 for rng in drawn], axis=0, dtype=np.float32)


def write_checkpoint(folder: Path, layers: int, experts: list[tuple[int, ...]]) -> None:
    """Write a shard per layer in bfloat16, matrix by matrix, with the index that transformers writes."""
    folder.mkdir()
    places, size = {}, 2 * WIDTH * HIDDEN
    for layer in range(layers):
        keys = {f"model.layers.{layer}.mlp.experts.{at}.{name}.weight": (of, name)
                for at, of in enumerate(experts) for name in SHAPES}  # fmt: skip
        header = {
            key: {"dtype": "BF16", "shape": SHAPES[name], "data_offsets": [at * size, (at + 1) * size]}
            for at, (key, (_, name)) in enumerate(keys.items())
        }
        places |= dict.fromkeys(keys, f"layer-{layer}.safetensors")
        with (folder / f"layer-{layer}.safetensors").open("wb") as file:
            text = json.dumps(header).encode()
            file.write(len(text).to_bytes(8, "little") + text)
            for of, name in keys.values():
                file.write((matrix(layer, of, name).view(np.uint32) >> 16).astype(np.uint16).tobytes())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


@figure("lineage", 2)
def lineage(args: Args) -> None:
    """A checkpoint of --times gigabytes, and a child with its experts in another order, one cut and two averaged."""
    one = 3 * 2 * WIDTH * HIDDEN
    layers = max(2, round(args.times * 1e9 / one / EXPERTS))
    if (needed := layers * one * 2 * EXPERTS) > 0.8 * (free := shutil.disk_usage(args.folder or "/tmp").free):
        raise SystemExit(f"Both take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. Give a lower --times.")
    rest = [number for number in reversed(range(EXPERTS)) if number not in (CUT, *AVERAGED)]

    def measured(*checkpoints: Path) -> tuple[int, list[list[object]]]:
        command = [sys.executable, "-c", RUN, *map(str, checkpoints)]
        return tuple(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout))

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        base, child = Path(folder, "base"), Path(folder, "child")
        write_checkpoint(base, layers, [(number,) for number in range(EXPERTS)])
        write_checkpoint(child, layers, [*((number,) for number in rest), AVERAGED])
        start = time.perf_counter()
        memory, told = measured(base, child)
        seconds, size = time.perf_counter() - start, sum(file.stat().st_size for file in base.iterdir())
    expected = [["moved", [number]] for number in rest] + [["averaged", [*AVERAGED]]]
    right = sum([what, sorted(of)] == expected[at] for _, at, what, of in told if at >= 0)
    cut = sum(what == "cut" and of == [CUT] for _, _, what, of in told)
    print(f"{size / 1e9:.2f} GB in {layers} layers of {EXPERTS} experts, a matrix has {one / 3e6:.1f} MB")
    print(f"told right: {right} of {layers * len(expected)} experts, {cut} of {layers} that were cut; {seconds:.0f} s")
    print(f"memory at most: {memory / 2**20:.0f} MiB, of which {measured()[0] / 2**20:.0f} MiB are its imports")


def written_gguf(folder: str, kind: str) -> str:
    """Write the embedded model as a GGUF file with weights of that type."""
    sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))
    from gguf_models import of_transformers, write_model

    return str(write_model(of_transformers("embedded"), Path(folder) / f"{kind}.gguf", kind))


def long_text() -> str:
    """Return a stretch of the evaluation texts, in all their languages."""
    return "\n".join(text.text for text in evaluation_set())[:2_600]


@figure("quantised", 1)
def quantised(_args: Args) -> None:
    """Compare four types, with keys and values in float32, and as llama.cpp has them by default."""
    text, rows = long_text(), []
    expected = np.sort(trace("embedded", text).experts, -1)
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("F32", "F16", "Q8_0", "Q4_K"):
            path = written_gguf(folder, kind)
            for exact in (True, False):
                found = np.sort(trace(load_model(path, exact=exact), text).experts, -1)
                same = (found == expected).all(-1)
                rows.append([kind, "float32" if exact else "float16", f"{same.sum():,} of {same.size:,}"])
    print(table(["file", "cache", "sets of experts"], rows))


def print_costs(name: str, way: Callable[[str, int], float], ways: list[str], lengths: list[int], rounds: int) -> None:
    """Print, for each length and way, the median ratio to the last way of its round, and that one's time per token."""
    for length in lengths:
        times = interleave({each: partial(way, each, length) for each in ways}, rounds)
        each = 1000 * statistics.median(times[ways[-1]]) / length
        for listening in ways[:-1]:
            middle, half = quartiles(ratios(times, listening, ways[-1]))
            print(
                f"{name:<10}{length:>5} tokens  {listening:<18}{middle:>7.3f}   {half}   {each:.2f} ms/token",
                flush=True,
            )


@figure("llama.cpp", 15)
def llama_cpp(args: Args) -> None:
    """Time a prompt and one generated token, and llama.cpp computing only the last output."""
    from moeviz.capture.engines.llama_cpp.context import ComputeOptions, Context
    from moeviz.capture.engines.llama_cpp.recording import CallbackRecording

    with tempfile.TemporaryDirectory() as folder:
        weights, vocabulary = load_model(written_gguf(folder, "F32"), threads=1).opened()
        read, arms = vocabulary.ids(long_text()), {"listening": (True, True), "all outputs": (False, True)}

        def seconds(arm: str, length: int) -> float:
            listens, outputs = arms.get(arm, (False, False))
            recording = CallbackRecording(weights.library, keep_logits=True) if listens else None
            how = ComputeOptions(threads=1, micro_batch=512, exact=True)
            with closing(Context(weights, recording, how, 1, len(read) + 32, all_outputs=outputs)) as context:
                context.read(0, 0, read[:64])
                start = time.process_time()
                context.read(0, 64, read[64 : 64 + length])
                return time.process_time() - start

        print_costs("llama.cpp", seconds, [*arms, "last output"], [1, 64, 512], args.times)


@figure("mlx", 60)
def mlx(args: Args) -> None:
    """Two models of the same weights, mlx-lm's as it is and moeviz's; or those of --folder."""
    import mlx.core as mx
    from mlx_lm import utils
    from mlx_lm.models.cache import make_prompt_cache

    from moeviz.capture.engines.mlx.model import STEP, _forward

    def folders(place: Path) -> Iterator[Path]:
        if args.folder is not None:
            yield Path(args.folder)
            return
        whole, packed = place / "float32", place / "4 bit"
        shutil.copytree(embedded_path(), whole, ignore=lambda at, names: [n for n in names if (Path(at) / n).is_dir()])
        config = json.loads((whole / "config.json").read_text())
        config["rope_theta"] = config["rope_parameters"]["rope_theta"]  # where mlx-lm looks for it
        (whole / "config.json").write_text(json.dumps(config))
        yield whole
        model, config = utils.load_model(whole)
        model, config = utils.quantize_model(model, config, 64, 4)
        utils.save_model(packed, model)
        utils.save_config(config, packed / "config.json")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(whole / name, packed)
        yield packed

    tokens = np.random.default_rng(0).integers(3, 8000, 576).tolist()
    with tempfile.TemporaryDirectory() as place:
        for folder in folders(Path(place)):
            theirs, _ = utils.load_model(folder)
            theirs.set_dtype(mx.float32)  # a CPU multiplies experts that are not packed in float32 only
            mx.eval(theirs.parameters())
            ours = load_model(str(folder), backend="mlx", dtype="float32").opened()

            def step(way: str, part: list[int], cache: list, last: bool, theirs=theirs, ours=ours) -> None:
                if way != "mlx-lm":
                    _forward(ours, part, cache, way == "moeviz + logits", last)
                    return
                scores = theirs(mx.array([part]), cache=cache)
                mx.eval(*[scores] * last, [each.state for each in cache])

            def read(way: str, part: list[int], cache: list, step=step) -> None:
                for at in range(0, len(part) - 1, STEP):
                    step(way, part[at : min(at + STEP, len(part) - 1)], cache, False)
                step(way, part[-1:], cache, True)

            def seconds(way: str, length: int, theirs=theirs, read=read) -> float:
                cache = make_prompt_cache(theirs)
                if length == 1:
                    read(way, tokens[:64], cache)
                start = time.perf_counter()
                read(way, tokens[64:65] if length == 1 else tokens[:length], cache)
                return time.perf_counter() - start

            print_costs(folder.name, seconds, ["moeviz", "moeviz + logits", "mlx-lm"], [1, 64, 512], args.times)


WRITE = """
import json, sys, time
begun, done = time.time(), []
texts, out, shard_bytes, actors = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
from moeviz.corpus.run import Wanted, write_corpus
def progress(texts, total, seconds): done.append((time.time() - begun, texts))
wanted = Wanted(shard_bytes=shard_bytes, threads=1)
if actors:
    from moeviz.corpus.on_ray import Cluster, write_corpus_on_ray
    write_corpus_on_ray("embedded", [texts], out, wanted, progress=progress, cluster=Cluster(actors=actors))
else:
    from moeviz import load_model
    write_corpus(load_model(), [texts], out, wanted, progress=progress)
print(json.dumps(done))
"""


@figure("ray", 2)
def ray(args: Args) -> None:
    """The texts that ship in twelve shards, by processes that take turns; every folder must hold the same bytes."""
    from moeviz import read_dataset
    from moeviz.labelled_texts import texts_that_ship

    texts, rows, written = texts_that_ship(), [], []
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        source = Path(place) / "texts.jsonl"
        source.write_text("\n".join(json.dumps({"label": label, "text": text}) for label, text in texts), "utf-8")
        size = sum(len(text.encode()) for _, text in texts) // 12 + 1
        for number in range(args.times):
            for actors in (0, 1, 2):
                out = Path(place) / f"{number} {actors}"
                command = [sys.executable, "-c", WRITE, str(source), str(out), str(size), str(actors)]
                (first, then), *_, (last, every) = json.loads(
                    subprocess.check_output(command, text=True).splitlines()[-1]
                )
                rate = read_dataset(out).tokens * (every - then) / every / (last - first)
                rows.append([str(actors), f"{first:.1f}", f"{rate:,.0f}"])
                files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
                written.append(files)
    print(table(["actors", "seconds to the first shard", "tokens per second after"], rows))
    print(f"The same bytes in all {len(written)}: {all(one == written[0] for one in written)}")


def main() -> None:
    """Print one figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=FIGURES)
    parser.add_argument("--times", type=int, help="rounds, captures, characters, kinds of text, streams, or gigabytes")
    parser.add_argument("--folder", help="where large files are written, or the model that mlx reads")
    args = parser.parse_args()
    measure, times = FIGURES[args.name]
    args.times = times if args.times is None else args.times
    measure(args)


if __name__ == "__main__":
    main()
