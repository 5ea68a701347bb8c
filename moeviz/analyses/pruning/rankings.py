"""Rankings of experts as files, in moeviz's own form and in those of programs that cut experts."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moeviz.analyses.pruning.result import PruningCurve, Texts
from moeviz.errors import CaptureError
from moeviz.metrics.pruning import cost_of_cuts


def evidence(curve: PruningCurve, criterion: str) -> dict[str, Any]:
    """The evidence for a choice of experts, for JSON: the model, the texts that chose and judged, and the losses.

    Texts are given by their number, labels and a hash (SHA-256 of their JSON), and never themselves.
    """
    rows = cost_of_cuts(curve.losses)
    columns = ["criterion", "cut", "tokens", "loss", "loss_increase", "sd"]
    return {
        "model": curve.model.name,
        "revision": curve.model.revision,
        "criterion": criterion,
        "seed": curve.seed,
        "tokens_of_a_text": curve.tokens,
        "segment": curve.segment,
        "replaced_by": curve.replaced_by,
        "chosen_on": _about(curve.chose),
        "judged_on": _about(curve.judged),
        "loss": curve.loss,
        "losses": json.loads(rows[columns].to_json(orient="records", double_precision=15)),  # NaN is null
    }


def _about(texts: Texts) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    return {"texts": len(texts), "labels": sorted({label for label, _ in texts}), "sha256": digest}


def ranking(curve: PruningCurve, criterion: str, form: str, cut: int | None = None) -> str:
    """Return the experts of each layer as a file's text, in one of `FORMS`.

    moeviz          JSON lines: what the ranking rests on (`evidence`), then for each layer its experts, the most needed
                    first, and their scores.
    vllm-ascend     JSON lines: for each layer its experts, the most needed first, as `expert_list_file` takes them for
                    Qwen3-MoE (pull request 12525). It has no place for what the ranking rests on.
    llm-compressor  JSON: by the path of each MoE block the experts that stay, ascending, as its REAP modifier writes
                    them (`report_path`). It reads none. It needs a number to cut, and has no place for the rest.

    Raises `CaptureError` for another form, and for llm-compressor's without a number that can be cut.
    """
    if form not in FORMS:
        raise CaptureError(f"There is no form {form!r} of rankings. Choose among {', '.join(FORMS)}.")
    return FORMS[form](curve, criterion, cut)


def _own(curve: PruningCurve, criterion: str, cut: int | None) -> str:
    lines: list[Mapping[str, Any]] = [evidence(curve, criterion) | ({} if cut is None else {"cut": cut})]
    score = {} if criterion not in curve.scores else curve.scores.set_index(["layer", "expert"])[criterion].to_dict()
    for layer, experts in _most_needed_first(curve, criterion):
        scores = [score.get((layer, expert)) for expert in experts]
        lines.append({"layer": layer, "experts": experts, "scores": scores})
    return _lines(lines)


def _vllm_ascend(curve: PruningCurve, criterion: str, cut: int | None) -> str:
    return _lines([{str(layer): experts} for layer, experts in _most_needed_first(curve, criterion)])


def _llm_compressor(curve: PruningCurve, criterion: str, cut: int | None) -> str:
    if cut is None:
        raise CaptureError("llm-compressor's form lists the experts that stay. Say how many are cut (--cut).")
    gone = curve.cut(criterion, cut)
    experts = dict(zip(curve.model.layers, curve.model.num_experts, strict=True))
    kept = {
        path: [one for one in range(experts[layer]) if one not in gone[layer]] for layer, path in curve.blocks.items()
    }
    return json.dumps(kept) + "\n"


FORMS: dict[str, Callable[[PruningCurve, str, int | None], str]] = {
    "moeviz": _own,
    "vllm-ascend": _vllm_ascend,
    "llm-compressor": _llm_compressor,
}


def _most_needed_first(curve: PruningCurve, criterion: str) -> list[tuple[int, list[int]]]:
    return [(layer, [*reversed(experts)]) for layer, experts in curve.order(criterion).items()]


def _lines(values: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)
