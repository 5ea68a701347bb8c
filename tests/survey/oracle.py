"""What the experts received, heard where they run: a witness of routing that knows nothing of routers.

A witness tells for every module with experts and for every token which experts got it and, where that can be seen, with
which weights; a weight of 0 is told too, where the experts are given ids.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from moeviz.capture.routers.declared import inmost

Routing = list[dict[int, float | None]]  # of one block: expert -> weight, a token after the other


class Calls(list[Routing]):
    """What one module received, one routing a call."""

    def __init__(self, path: str, order: list[tuple[str, Routing]]) -> None:
        super().__init__()
        self.path, self.order = path, order

    def append(self, routing: Routing) -> None:
        """One more call."""
        super().append(routing)
        self.order.append((self.path, routing))


class Testimony(dict[str, Calls]):
    """What was witnessed: by the path of a module, and of all of them in the order in which they ran."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[tuple[str, Routing]] = []

    def calls(self, path: str) -> Calls:
        """Where to write down what the module at this path receives."""
        return self.setdefault(path, Calls(path, self.order))


@contextmanager
def witnessed(model: nn.Module) -> Iterator[Testimony]:
    """Inside the block, what the experts of `model` receive is written down."""
    heard = Testimony()
    with ExitStack() as stack:
        for path, part in model.named_modules():
            for name, attend in WITNESSES.items():
                if type(part).__name__ == name or (name == STANDARD and _is_standard(path, inmost(part))):
                    for hook in attend(part, heard.calls(path)):
                        stack.callback(hook.remove)
                    break
        yield heard


def _is_standard(path: str, part: nn.Module) -> bool:
    return path.rpartition(".")[2] == "experts" and type(part).__name__ not in WITNESSES


def _ids_and_weights(experts: nn.Module, calls: Calls) -> list:
    """Experts that are given (hidden states, expert ids, weights)."""

    def note(_module: nn.Module, given: tuple, named: dict) -> None:
        tensors = [*given, *named.values()]
        ids = next(part for part in tensors if not part.is_floating_point())
        weights = next(part for part in tensors if part.is_floating_point() and part.shape == ids.shape)
        calls.append([dict(zip(*row, strict=True)) for row in zip(ids.tolist(), weights.tolist(), strict=True)])

    return [experts.register_forward_pre_hook(note, with_kwargs=True)]


def _masks(experts: nn.Module, calls: Calls) -> list:
    """A ModuleDict of experts that is given (hidden states, mask, weights); each expert's rows are found again."""
    given: dict[str, Tensor] = {}

    def note(_module: nn.Module, arguments: tuple) -> None:
        given["hidden"], given["weights"] = arguments[0], arguments[2]
        calls.append([{} for _ in arguments[0]])

    def note_expert(number: int) -> Callable:
        def note_rows(_expert: nn.Module, arguments: tuple) -> None:
            for token in _places(arguments[0], given["hidden"]):
                calls[-1][token][number] = given["weights"][token].max().item()

        return note_rows

    hooks = [experts.register_forward_pre_hook(note)]
    numbered = {int(name.split("_")[1]): part for name, part in experts.items() if name.startswith("expert_")}
    return hooks + [part.register_forward_pre_hook(note_expert(number)) for number, part in numbered.items()]


def _places(rows: Tensor, among: Tensor) -> list[int]:
    """Which of `among` (T, D) each of `rows` (n, D) is."""
    same = (rows[:, None] == among[None]).all(dim=-1)
    return same.nonzero()[:, 1].tolist()


def _scaled_inputs(experts: nn.Module, calls: Calls) -> list:
    """Experts that are given every token, E times, scaled: by 0 where it was not sent to them."""

    def note(module: nn.Module, given: tuple) -> None:
        scaled = given[0].view(module.num_experts, -1, given[0].shape[-1])
        chosen = (scaled != 0).any(dim=-1)  # (E, T)
        calls.append([dict.fromkeys(chosen[:, token].nonzero()[:, 0].tolist()) for token in range(chosen.shape[1])])

    return [experts.register_forward_pre_hook(note)]


def _sorted_rows(block: nn.Module, calls: Calls) -> list:
    """Linear layers of experts that are given the tokens of expert 0, then those of 1, and how many each has."""
    met: dict[str, Tensor] = {}

    def note_tokens(_router: nn.Module, given: tuple) -> None:
        met["hidden"] = given[0]

    def note(_module: nn.Module, given: tuple) -> None:
        rows, counts = given
        calls.append([{} for _ in met["hidden"]])
        for expert, part in enumerate(rows.split(counts)):
            for token in _places(part, met["hidden"]):
                calls[-1][token][expert] = None

    return [
        block.router.register_forward_pre_hook(note_tokens),
        block.input_linear.register_forward_pre_hook(note),
    ]


def _looked_up(embedding_holder: nn.Module, calls: Calls) -> list:
    """Experts that are rows of an embedding."""

    def note(_module: nn.Module, given: tuple) -> None:
        calls.append([dict.fromkeys(row) for row in given[0].tolist()])

    return [embedding_holder.down_embed.register_forward_pre_hook(note)]


STANDARD = "experts"
WITNESSES: dict[str, Callable[[nn.Module, Calls], list]] = {
    "SwitchTransformersExperts": _masks,
    "NllbMoeExperts": _masks,
    "Llama4TextExperts": _scaled_inputs,
    "JetMoeMoE": _sorted_rows,
    "JetMoeMoA": _sorted_rows,
    "DogeCDMoE": _looked_up,
    STANDARD: _ids_and_weights,
}


@torch.no_grad()
def block_factor(model: nn.Module, read: Callable[[], object]) -> float | None:
    """What the first MoE block multiplies its experts' sum by: its output where they give 1, less where they give 0.

    None where the block is a whole layer, or does more with the sum than multiply it and add to it.
    """
    path = next((path for path, part in model.named_modules() if _is_standard(path, part)), None)
    if path is None or path.split(".")[-2].isdigit():
        return None
    experts, block = model.get_submodule(path), model.get_submodule(path.rpartition(".")[0])
    outputs = []
    for constant in (0.0, 1.0):
        with ExitStack() as stack:
            answer = experts.register_forward_hook(lambda _e, _g, output, c=constant: torch.full_like(output, c))
            stack.callback(answer.remove)
            stack.callback(block.register_forward_hook(lambda _b, _g, output: outputs.append(_first(output))).remove)
            read()
    step = outputs[1] - outputs[0]
    return float(step.median()) if step.std() < 1e-3 * step.abs().mean() else None


def _first(output: Tensor | tuple) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
