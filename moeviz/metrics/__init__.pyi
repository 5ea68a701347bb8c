"""The names of the package that are functions of its modules: type checkers read this, and so does `moeviz._lazy`."""

from moeviz.metrics.balance import load_beside_luck as load_beside_luck
from moeviz.metrics.co_activation import co_activation as co_activation
from moeviz.metrics.comparison import (
    balance_of_both as balance_of_both,
    choices_changed as choices_changed,
    load_difference as load_difference,
    load_divergence as load_divergence,
)
from moeviz.metrics.confidence import (
    router_entropy as router_entropy,
    token_entropy as token_entropy,
    top_margin as top_margin,
)
from moeviz.metrics.contrast import contrast as contrast
from moeviz.metrics.contribution import contribution as contribution
from moeviz.metrics.coverage import experts_needed as experts_needed, experts_touched as experts_touched
from moeviz.metrics.engine_difference import engine_difference as engine_difference
from moeviz.metrics.engine_tokens import margins_of_both as margins_of_both, token_differences as token_differences
from moeviz.metrics.expert_names import expert_names as expert_names
from moeviz.metrics.expert_table import expert_table as expert_table
from moeviz.metrics.flow import (
    consecutive_information as consecutive_information,
    consecutive_transitions as consecutive_transitions,
    information_between_layers as information_between_layers,
)
from moeviz.metrics.layers import (
    balance_of_two as balance_of_two,
    overlap as overlap,
    ranked_load as ranked_load,
    transitions as transitions,
)
from moeviz.metrics.load import (
    balance as balance,
    balance_over_time as balance_over_time,
    coverage as coverage,
    expert_load as expert_load,
    importance as importance,
)
from moeviz.metrics.locality import (
    locality as locality,
    locality_beside_mixtral as locality_beside_mixtral,
    locality_by_label as locality_by_label,
)
from moeviz.metrics.losses import aux_loss as aux_loss, z_loss as z_loss
from moeviz.metrics.overview import modal_first_choice as modal_first_choice
from moeviz.metrics.parameters import parameter_split as parameter_split, touched_growth as touched_growth
from moeviz.metrics.paths import expert_map as expert_map, path_table as path_table, similar_tokens as similar_tokens
from moeviz.metrics.placement import placement as placement, placement_imbalance as placement_imbalance
from moeviz.metrics.routing_over_training import saturation_over_training as saturation_over_training
from moeviz.metrics.specialization import (
    label_divergence as label_divergence,
    label_information as label_information,
    load_by_label as load_by_label,
)
from moeviz.metrics.tokens import (
    token_choices as token_choices,
    token_expert as token_expert,
    token_routes as token_routes,
)
from moeviz.metrics.tune_targets import tune_targets as tune_targets
from moeviz.metrics.vocabulary import (
    token_kinds as token_kinds,
    top_tokens as top_tokens,
    vocabulary_by_layer as vocabulary_by_layer,
    vocabulary_specialization as vocabulary_specialization,
)
