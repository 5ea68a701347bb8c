"""What each chart says of its numbers: one computed sentence where something stands out in them, and else nothing.

A sentence has at most 25 words, is counted from the very frame that is drawn, and quotes labels as they are: it is for
a text node, never for HTML or Markdown. Where chance is known, luck among all that is drawn must explain what is said
at most once in a thousand times (`moeviz.metrics.luck`); elsewhere each function states the size that it asks for.
"""

from collections.abc import Callable

import pandas as pd

from moeviz.metrics import said_of_experts as experts
from moeviz.metrics import said_of_layers as layers
from moeviz.metrics import said_of_models as models
from moeviz.metrics import said_of_serving as serving

Sentence = Callable[[pd.DataFrame], str | None]

SAID: dict[str, Sentence] = {
    "load_heatmap": experts.said_of_load,
    "load_bars": experts.said_of_load,
    "balance_by_layer": layers.said_of_spread,
    "busiest_by_layer": layers.said_of_busiest,
    "load_against_importance": experts.said_of_importance,
    "label_load_heatmap": experts.said_of_label_load,
    "information_by_layer": layers.said_of_labels,
    "label_divergence_grid": experts.said_of_divergence,
    "kinds_heatmap": experts.said_of_kinds,
    "vocabulary_of_layers": experts.said_of_vocabulary_by_layer,
    "vocabulary_of_experts": experts.said_of_vocabulary,
    "co_activation_heatmap": experts.said_of_co_activation,
    "strongest_pairs": experts.said_of_pairs,
    "entropy_by_layer": layers.said_of_entropy,
    "margin_by_layer": layers.said_of_margin,
    "repeated_first_choice": layers.said_of_repeats,
    "repeated_any_choice": layers.said_of_shared,
    "aux_loss_by_layer": layers.said_of_aux_loss,
    "z_loss_by_layer": layers.said_of_z_loss,
    "load_of_two_layers": layers.said_of_ranked,
    "balance_of_two_layers": layers.said_of_two_balances,
    "layer_transitions": experts.said_of_transitions,
    "layer_overlap": layers.said_of_overlap,
    "flow_between_layers": layers.said_of_pairs_of_layers,
    "flow_of_two_layers": experts.said_of_transitions,
    "flow_ribbons": experts.said_of_transitions,
    "flow_information": layers.said_of_information,
    "parameters_by_part": models.said_of_parts,
    "active_by_convention": models.said_of_active,
    "touched_curve": models.said_of_touched,
    "experts_needed_grid": models.said_of_needed,
    "touched_by_layer": models.said_of_touched_experts,
    "imbalance_by_layer": models.said_of_imbalance,
    "hit_rate_curve": serving.said_of_hits,
    "distinct_experts_curve": serving.said_of_batches,
    "placement_plane": serving.said_of_placements,
}

# Charts that say nothing, and why.
SILENT = {
    "token_layer_map": "It is the text itself, to look at; `moeviz.metrics.findings` says what stands out in it.",
    "token_expert_grid": "It is the text itself, to look at; `moeviz.metrics.findings` says what stands out in it.",
    "token_route": "It is one token: there is nothing to compare it with.",
    "coverage_curve": "Its numbers are shares without counts, and of a short text a few experts do most by luck.",
    "device_load_grid": "Its numbers are shares without counts; the chart of all layers judges plans on other tokens.",
    "top_tokens_table": "It holds the best of many tokens only, so luck cannot be judged; an expert's page judges it.",
    "prefetch_curve": "Its numbers are shares without counts, and of a short text a predictor does well by luck.",
    "cards_that_fit": "It is arithmetic on the model's sizes: every cell is an answer.",
    "entropy_grid": "Some token is always the most undecided: that is no finding.",
}


def said(key: str, frame: pd.DataFrame) -> str | None:
    """The sentence of the chart with this key on the numbers that it draws; None where nothing stands out."""
    return SAID[key](frame) if key in SAID else None
