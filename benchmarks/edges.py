"""Does anything that runs beside a trace get into it? Traces of the embedded model while other threads call it.

    python -m benchmarks.edges [--traces 10000] [--threads 2] [--jobs 200] [--seed 0]

First every job (a text of random length, tokens to generate, kernels, an intervention) is traced alone. Then jobs are
drawn at random and traced again, one after the other, while other threads call the model, its stack, a block or
`generate` on ids of their own, with hooks now and then that run a block again or only look. Printed is how many traces
are equal to the one made alone, how many were refused with a sentence, and how many were different or failed otherwise:
those two must be 0. What the other threads get is compared too.
"""

import argparse
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count

import torch

from moeviz import Force, LoadedModel, MoevizError, Mute, RoutingTrace, Swap, load_model, trace

LAYER = re.compile(r"\d+")  # sentences are counted whatever layer they name
WORDS = ("to be", "or not", "heute ist es kalt", "il fait froid", "12 + 7 = 19", "def f(x):", "return x", "a b a b")
CHANGES = (None, None, None, Mute({1: (0, 1)}), Force({2: (3,)}), Swap(0, 1, 2))
CALLS = 64  # different calls of the other threads


@dataclass(frozen=True)
class TraceCase:
    """A trace to make, and what it is when nothing else runs."""

    text: str
    options: dict
    alone: list[RoutingTrace]  # and by hooks, which stand in for the kernels where somebody hooks a router


@dataclass
class Others:
    """The work of the other threads, and its outcome."""

    model: torch.nn.Module
    over: threading.Event = field(default_factory=threading.Event)
    outcomes: Counter = field(default_factory=Counter)
    inside: threading.local = field(default_factory=threading.local)

    def act(self, number: int) -> torch.Tensor:
        """One of `CALLS` ways to call the model, always the same for a number."""
        draw, model = random.Random(number), self.model
        ids = torch.tensor([[draw.randrange(3, 8000) for _ in range(draw.randint(1, 12))]])
        hidden = torch.linspace(-1, 1, ids.numel() * model.config.hidden_size).view(1, ids.numel(), -1)
        ways: list[Callable[[], torch.Tensor]] = [
            lambda: model(ids).logits,
            lambda: model(ids, use_cache=False).logits,
            lambda: model.model(ids).last_hidden_state,
            lambda: model.model.layers[draw.randrange(6)].mlp(hidden),
            lambda: model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0),
        ]
        return draw.choice(ways)()

    def hooked(self, draw: random.Random) -> object:
        """Now and then a hook on a part of the model, which runs in whichever thread calls that part."""
        if draw.random() > 0.02:
            return nullcontext()
        part = draw.choice([self.model.model.layers[draw.randrange(6)].mlp, self.model.model.layers[2].mlp.gate])
        again = draw.random() < 0.5
        return _Handle(part.register_forward_hook(self._again if again else lambda *_given: None))

    def _again(self, part: torch.nn.Module, given: tuple, _output: object) -> None:
        if not getattr(self.inside, "hook", False):
            self.inside.hook = True
            part(*given)
            self.inside.hook = False

    @torch.no_grad()
    def run(self, seed: int, expected: list[torch.Tensor]) -> None:
        """Call until it is over."""
        draw = random.Random(seed)
        while not self.over.is_set():
            number = draw.randrange(CALLS)
            try:
                with self.hooked(draw):
                    self.outcomes["as alone" if torch.equal(self.act(number), expected[number]) else "different"] += 1
            except Exception as error:  # a bug, which is counted
                self.outcomes[f"{type(error).__name__}: {error}"[:200]] += 1


class _Handle:
    def __init__(self, handle: torch.utils.hooks.RemovableHandle) -> None:
        self.handle = handle

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_error: object) -> None:
        self.handle.remove()


def jobs(model: LoadedModel, number: int, seed: int) -> list[TraceCase]:
    """Return random jobs, each traced by itself."""
    draw, made = random.Random(seed), []
    for _ in range(number):
        text = " ".join(draw.choices(WORDS, k=draw.randint(1, 4)))
        new = draw.choice((0, 0, 0, 1, 3))
        kernels = draw.random() < 0.4
        options = {"max_new_tokens": new, "kernels": kernels, "intervention": draw.choice(CHANGES)}
        alone = [trace(model, text, **options | {"kernels": way}) for way in {kernels, False}]
        made.append(TraceCase(text, options, alone))
    return made


def outcome(model: LoadedModel, job: TraceCase) -> str:
    """Compare a trace recorded next to other threads with the one recorded by itself."""
    try:
        made = trace(model, job.text, **job.options)
    except MoevizError as error:
        return f"refused: {LAYER.sub('…', str(error))}"
    except Exception as error:  # a bug, which is counted
        return f"failed: {type(error).__name__}: {error}"
    return "equal" if any(made.equals(alone) for alone in job.alone) else "different"


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2, help="other threads that call the model")
    parser.add_argument("--jobs", type=int, default=200, help="different traces")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    sys.setswitchinterval(1e-4)  # threads take turns often
    model = load_model()
    made = jobs(model, wanted.jobs, wanted.seed)
    others = Others(model.model)
    with torch.no_grad():
        expected = [others.act(number) for number in range(CALLS)]
    threads = [threading.Thread(target=others.run, args=(seed, expected)) for seed in range(wanted.threads)]
    for thread in threads:
        thread.start()
    draw, counts, start = random.Random(wanted.seed), Counter(), time.perf_counter()
    try:
        for done in count(1):
            counts[outcome(model, draw.choice(made))] += 1
            if done % 500 == 0 or done == wanted.traces:
                print(f"{done} traces, {time.perf_counter() - start:.0f} s: {_summary(counts)}", flush=True)
            if done == wanted.traces:
                break
    finally:
        others.over.set()
        for thread in threads:
            thread.join()
    for what, times in counts.most_common():
        print(f"{times:>7}  {what}")
    print("the other threads' own calls:", dict(others.outcomes.most_common()))


def _summary(counts: Counter) -> str:
    kinds = Counter()
    for what, times in counts.items():
        kinds[what.partition(":")[0]] += times
    return ", ".join(f"{kinds[kind]} {kind}" for kind in ("equal", "refused", "different", "failed"))


if __name__ == "__main__":
    main()
