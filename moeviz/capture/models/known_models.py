"""Configs of well-known MoEs, so that their parameters are counted without a network, and the published figures.

The sizes in `known_models.json` were written down there, not downloaded; tests confirm them by the published counts.
A missing size is the default of the class. `total` and `active` are the figures of the maker (a paper or a model
card), in billions, and `convention` is the way of counting active parameters that gives the maker's figure
(`moeviz.parameters.CONVENTIONS`).
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moeviz.parameters import active_parameters

if TYPE_CHECKING:  # the published figures by themselves need not wait for them
    import pandas as pd
    from transformers import PreTrainedConfig


class KnownModel(NamedTuple):
    """A model's config, and its published figures in billions of parameters."""

    model_type: str
    sizes: dict[str, object]
    total: float
    active: float | None  # if published
    convention: str = "all"
    remark: str = ""

    def config(self) -> "PreTrainedConfig":
        """Return the config, as transformers has it."""
        from transformers import AutoConfig

        return AutoConfig.for_model(self.model_type, **self.sizes)


KNOWN_MODELS: dict[str, KnownModel] = {
    name: KnownModel(**facts)
    for name, facts in json.loads(Path(__file__).with_suffix(".json").read_text("utf-8")).items()
}


def known_counts() -> "pd.DataFrame":
    """Compare our counts with the makers' figures, in billions; active ones by the convention that each maker uses.

    One row per model of `KNOWN_MODELS`, each laid out on the meta device. Columns: model str · total, active float64
    (ours) · published_total, published_active float64 (the maker's; NaN if not published) · convention, remark str.
    """
    import pandas as pd

    from moeviz.capture.models.parameters import parameters_of_config

    rows = []
    for name, known in KNOWN_MODELS.items():
        model = parameters_of_config(known.config(), name)
        counts = model.parameters
        assert counts is not None  # a config gives them all
        active = active_parameters(counts, model.top_k, known.convention)
        ours = {"total": counts.total / 1e9, "active": active / 1e9}
        published = {"published_total": known.total, "published_active": known.active}
        rows.append({"model": name} | ours | published | {"convention": known.convention, "remark": known.remark})
    return pd.DataFrame(rows)
