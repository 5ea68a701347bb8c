"""Hold changes of the routing against the same changes made by other means, in every architecture.

A run is "obeyed" where ids and weights of every layer are what the experts received in the other run, and the routers'
logits and the model's are the same. Anything else must be a sentence of ours. A change that changes nothing is wrong:
then it was not tried. Beside it, whether the trace that kernels record is the one that hooks record.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from moeviz.capture.record.kernel_parity import probe
from moeviz.capture.record.witness import Testimony, witnessed
from moeviz.capture.routers.discovery import find_routers, router_sites
from moeviz.capture.routers.families import INTERVENTIONS, OBEYED
from moeviz.capture.run.prompts import Batch
from moeviz.capture.trace import trace
from moeviz.errors import MoevizError
from moeviz.routing_trace import RoutingTrace
from survey.compare import told_of_computing
from survey.reference_interventions import KINDS, TEXT, Renamed, Subject
from survey.tiny_models import CLOSE, UNSEEN, random_model, read, tokenizer

EQUAL = "equal"
WRONG, ERROR = "wrong: ", "error: "


def subjects(architecture: str) -> Iterator[Subject]:
    """What there is of an architecture to change."""
    model = random_model(architecture)
    for site in router_sites(model):
        if site == UNSEEN:
            continue
        routers = find_routers(model, site)
        with _output_of(model) as outputs:
            plain = trace(model, TEXT, tokenizer=tokenizer(), site=site)
        for kind in dict.fromkeys(router.kind for router in routers):
            of_kind = tuple(router for router in routers if router.kind == kind)
            yield Subject(model, site, of_kind, plain, outputs[-1])


def outcome(subject: Subject, kind: str) -> str:
    """OBEYED, the sentence of a refusal, or what is wrong."""
    ours, others = KINDS[kind]
    try:
        with _output_of(subject.model) as outputs:
            changed = trace(subject.model, TEXT, tokenizer=tokenizer(), site=subject.site, intervention=ours(subject))
    except MoevizError as refusal:
        return str(refusal)
    except Exception as error:
        return f"{ERROR}{type(error).__name__}: {error}"
    with ExitStack() as stack:
        renamed = {r.path: stack.enter_context(others(subject, r)) for r in subject.routers}
        factors = {router.path: router.factor for router in subject.routers}
        testimony, logits, output = _read(subject, changed)
    if torch.allclose(outputs[-1], subject.output, **CLOSE):
        return f"{WRONG}it changes nothing"
    return (
        _difference(subject, changed, testimony, renamed, factors)
        or _unlike(changed, logits, outputs[-1], output)
        or OBEYED
    )


def by_kernels(subject: Subject) -> str:
    """EQUAL where the kernels record what hooks do, or why they run none of these routers."""
    try:
        got = trace(subject.model, TEXT, tokenizer=tokenizer(), site=subject.site, kernels=True)
        routers = probe(subject.model, subject.site).routers
    except MoevizError as refusal:
        return str(refusal)
    except Exception as error:
        return f"{ERROR}{type(error).__name__}: {error}"
    same = (np.sort(got.experts) == np.sort(subject.plain.experts)).all()
    if not (same and np.allclose(got.weights, subject.plain.weights, **CLOSE)):
        return f"{WRONG}the kernels record something else"
    paths = {router.path for router in subject.routers}
    return next((found.trouble for found in routers if found.trouble and found.router.path in paths), EQUAL)


def _read(subject: Subject, like: RoutingTrace) -> tuple[Testimony, np.ndarray | None, Tensor]:
    """What the experts receive, the routers' logits, and the output, as the model is now."""
    ids = torch.tensor([like.tokens["token_id"].tolist()])
    with witnessed(subject.model) as testimony:
        output = read(subject.model, Batch(ids, torch.ones_like(ids)))
    recorded = trace(subject.model, TEXT, tokenizer=tokenizer(), site=subject.site)
    return testimony, recorded.logits, output


def _difference(
    subject: Subject,
    changed: RoutingTrace,
    testimony: Testimony,
    renamed: dict[str, Renamed],
    factors: dict[str, float],
) -> str:
    """How the changed trace differs from what the experts received; "" where it does not."""
    for layer, router in enumerate(find_routers(subject.model, subject.site)):
        places = (*router.experts, router.block_path, router.path)
        factor = factors.get(router.path, router.factor)
        received = next(testimony[place] for place in places if testimony.get(place)).pop(0)
        for token, row in enumerate(received):
            expected = {e: weight for e, weight in renamed.get(router.path, dict)(row).items() if weight != 0}
            told = told_of_computing(changed, layer, token, router)
            right = set(told) == set(expected) and all(
                weight is None or np.isclose(told[expert], weight * factor, **CLOSE)
                for expert, weight in expected.items()
            )
            if not right:
                return f"{WRONG}{router.path}, token {token}: recorded {told}, received {expected}"
    return ""


def _unlike(changed: RoutingTrace, logits: np.ndarray | None, ours: Tensor, output: Tensor) -> str:
    if logits is not None and not np.allclose(changed.logits, logits, rtol=1e-4, atol=1e-5):
        return f"{WRONG}the routers have other logits"
    return "" if torch.allclose(ours, output, rtol=1e-4, atol=1e-5) else f"{WRONG}the model has other logits"


@contextmanager
def _output_of(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Inside the block, what the model puts out for every token that it reads."""
    outputs: list[Tensor] = []

    def all_tokens(_model: object, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {name: value for name, value in kwargs.items() if name != "logits_to_keep"}

    def note(_model: object, _given: tuple, output: object) -> None:
        logits = getattr(output, "logits", None)
        outputs.append((output.last_hidden_state if logits is None else logits).detach())

    hooks = [model.register_forward_pre_hook(all_tokens, with_kwargs=True), model.register_forward_hook(note)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def intervention_rows(architecture: str) -> Iterator[dict[str, str]]:
    """A row per class of router and site."""
    for subject in subjects(architecture):
        names = {"architecture": architecture, "router": subject.routers[0].kind, "site": subject.site}
        yield names | {kind: outcome(subject, kind) for kind in KINDS} | {"kernels": by_kernels(subject)}


def interventions_of(architectures: Sequence[str]) -> pd.DataFrame:
    """The table of these architectures, from a survey of each."""
    return pd.DataFrame([row for name in architectures for row in intervention_rows(name)])


def write_interventions(table: pd.DataFrame) -> None:
    """Put the table where it ships."""
    INTERVENTIONS.write_text(f"# transformers {transformers.__version__}\n{table.to_csv(index=False)}")


def counts(table: pd.DataFrame) -> str:
    """How many changes were obeyed, refused, wrong or failed otherwise; and how many traces kernels recorded alike."""
    changes = _counted(pd.Series(table[list(KINDS)].to_numpy().ravel()), OBEYED)
    return f"interventions: {changes}\nkernels: {_counted(table['kernels'], EQUAL)}"


def _counted(cells: pd.Series, right: str) -> str:
    is_right, wrong, errors = cells == right, cells.str.startswith(WRONG), cells.str.startswith(ERROR)
    refused = ~(is_right | wrong | errors)
    return (
        f"{is_right.sum()} {right} of {len(cells)}, {refused.sum()} refused, {wrong.sum()} wrong, {errors.sum()} other "
        "exceptions"
    )
