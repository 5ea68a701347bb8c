"""Numbers about a RoutingTrace: each public function takes one and returns a tidy frame. No charts, no torch.

The functions behind the app's charts are names of the package too: `moeviz.metrics.balance(trace)`.
"""

from typing import TYPE_CHECKING

from moeviz._lazy import lazy_package

FUNCTIONS = {
    "balance": ("load_beside_luck",),
    "co_activation": ("co_activation",),
    "comparison": ("balance_of_both", "choices_changed", "load_difference", "load_divergence"),
    "confidence": ("router_entropy", "token_entropy", "top_margin"),
    "contrast": ("contrast",),
    "contribution": ("contribution",),
    "coverage": ("experts_needed", "experts_touched"),
    "engine_difference": ("engine_difference",),
    "engine_tokens": ("margins_of_both", "token_differences"),
    "expert_names": ("expert_names",),
    "expert_table": ("expert_table",),
    "flow": ("consecutive_information", "consecutive_transitions", "information_between_layers"),
    "layers": ("balance_of_two", "overlap", "ranked_load", "transitions"),
    "load": ("balance", "balance_over_time", "coverage", "expert_load", "importance"),
    "locality": ("locality", "locality_beside_mixtral", "locality_by_label"),
    "losses": ("aux_loss", "z_loss"),
    "overview": ("modal_first_choice",),
    "parameters": ("parameter_split", "touched_growth"),
    "paths": ("expert_map", "path_table", "similar_tokens"),
    "placement": ("placement", "placement_imbalance"),
    "routing_over_training": ("saturation_over_training",),
    "specialization": ("label_divergence", "label_information", "load_by_label"),
    "tokens": ("token_choices", "token_expert", "token_routes"),
    "tune_targets": ("tune_targets",),
    "vocabulary": ("token_kinds", "top_tokens", "vocabulary_by_layer", "vocabulary_specialization"),
}

if not TYPE_CHECKING:  # a type checker wants the import of the module
    __getattr__, __dir__, __all__ = lazy_package(__name__, FUNCTIONS)
