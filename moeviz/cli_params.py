"""What `moeviz params` says: a model's parameters, and what its maker says of them."""

from typing import Any

import pandas as pd

from moeviz.capture.known_models import KNOWN_MODELS
from moeviz.capture.parameters import parameters_of_config
from moeviz.errors import CaptureError
from moeviz.model_info import PARTS, ModelInfo
from moeviz.parameters import CONVENTIONS, active_parameters


def params_of(model: ModelInfo) -> dict[str, Any]:
    """Total, active by each convention, and by part; and the maker's figures where they are known.

    Raises `CaptureError` for a model with routers of several kinds.
    """
    counts = model.parameters
    if counts is None:
        raise CaptureError(
            f"{model.name} has routers of several kinds ({model.site} is one); moeviz counts parameters of models "
            "with one kind. `moeviz trace --site` records either."
        )
    active = {convention: active_parameters(counts, model.top_k, convention) for convention in CONVENTIONS}
    facts = {"model": model.name, "total": counts.total, "active": active}
    facts |= {"parts": {part: getattr(counts, part) for part in PARTS}}
    facts |= {"num_experts": model.num_experts, "top_k": model.top_k, "layers": len(model.layers)}
    if (known := KNOWN_MODELS.get(model.name)) is None:
        return facts
    published = {"total": known.total, "active": known.active, "convention": known.convention, "remark": known.remark}
    return facts | {"published": published}


def params_text(facts: dict[str, Any]) -> str:
    """The same for a terminal."""
    rows = {"total": facts["total"], **{f"active, {convention}": n for convention, n in facts["active"].items()}}
    rows |= {f"  {part.replace('_', ' ')}": n for part, n in facts["parts"].items()}
    wide, long = max(map(len, rows)), len(f"{facts['total']:,}")
    experts, layers = max(facts["num_experts"]), facts["layers"]
    lines = [f"{facts['model']}: {facts['top_k']} of {experts} experts a token in {layers} layers"]
    lines += [f"{name:<{wide}}  {count:>{long},}" for name, count in rows.items()]
    if published := facts.get("published"):
        remark = f" ({published['remark']})" if published["remark"] else ""
        lines.append(
            f"Its maker says {published['total']:g} billion, {published['active']:g} active, which is counted "
            f"{published['convention'].replace('all', 'with everything')}{remark}. The config is moeviz's own copy."
        )
    return "\n".join(lines)


def known_models() -> pd.DataFrame:
    """Our counts beside the makers' figures, in billions, active ones by the convention that each maker uses."""
    rows = []
    for name, known in KNOWN_MODELS.items():
        model = parameters_of_config(known.config(), name)
        active = active_parameters(model.parameters, model.top_k, known.convention)
        ours = {"total": model.parameters.total / 1e9, "active": active / 1e9}
        published = {"published_total": known.total, "published_active": known.active}
        rows.append({"model": name} | ours | published | {"convention": known.convention, "remark": known.remark})
    return pd.DataFrame(rows)
