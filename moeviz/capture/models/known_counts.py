"""Well-known models, counted: exact parameters from their configs, beside what their makers say."""

import pandas as pd

from moeviz.capture.models.known_models import KNOWN_MODELS
from moeviz.capture.models.parameters import parameters_of_config
from moeviz.parameters import active_parameters


def known_counts() -> pd.DataFrame:
    """Our counts beside the makers' figures, in billions, active ones by the convention that each maker uses.

    One row per model of `KNOWN_MODELS`, each laid out on the meta device. Columns: model str · total, active float64
    (ours) · published_total, published_active float64 (the maker's; NaN where it does not say) · convention, remark
    str.
    """
    rows = []
    for name, known in KNOWN_MODELS.items():
        model = parameters_of_config(known.config(), name)
        counts = model.parameters
        assert counts is not None  # a config tells them all
        active = active_parameters(counts, model.top_k, known.convention)
        ours = {"total": counts.total / 1e9, "active": active / 1e9}
        published = {"published_total": known.total, "published_active": known.active}
        rows.append({"model": name} | ours | published | {"convention": known.convention, "remark": known.remark})
    return pd.DataFrame(rows)
