"""Modules that have moved: their old names work for one version, with a warning that names the new ones."""

import sys
import warnings
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, no_type_check

PACKAGE = "moeviz."
# Below the package: the module as it was called, and where its names are now.
MODULES = {
    "capture.engines.expert_figures": "capture.engines.decoding_loop",
    "capture.engines.llama_cpp.vocabulary": "capture.engines.llama_cpp.context",
    "capture.engines.mlx.config": "capture.engines.mlx.folder",
    "capture.engines.mlx.metadata": "capture.engines.mlx.loading",
    "capture.engines.served.token_texts": "capture.engines.served.connection",
    "capture.interventions.exchange": "capture.interventions.swap",
    "capture.interventions.table": "capture.interventions",
    "capture.interventions.verification": "capture.interventions.intervention",
    "capture.models.safetensors_file": "capture.models.folder",
    "capture.run.sampling": "capture.run.decoding",
    "capture.run.streaming": "capture.run.generation",
    "charts.corpus": "charts.load",
    "charts.expert_company": "charts.expert",
    "charts.serving_curves": "charts.serving",
    "charts.serving_planes": "charts.serving",
    "charts.several": "charts.multi_trace",
    "charts.side_by_side": "charts.system_table",
    "charts.titles": "charts.chart",
    "charts.to_expert": "charts.chart",
    "charts.token_layer_images": "charts.token_layer_marks",
    "charts.training_figures": "charts.training",
    "charts.word_change": "charts.effect",
    "corpus.answers": "corpus.analyses",
    "corpus.keeping": "corpus.experts",
    "embedded.domains": "embedded.evaluation",
    "embedded.evaluate.losses": "embedded.evaluate.measures",
    "embedded.evaluate.recognition": "embedded.evaluate.measures",
    "embedded.evaluate.side_by_side": "embedded.evaluate.measures",
    "embedded.example": "embedded.recorded_routing",
    "embedded.reference": "embedded.recorded_routing",
    "embedded.routing_over_training": "embedded.recorded_routing",
    "footprint": "parameters",
    "formats.dataset.shard_statistics": "formats.dataset.shard",
    "formats.importers.options": "formats.importers.importer",
    "formats.importers.responses": "formats.importers.build_trace",
    "formats.importers.tables": "formats.importers.arrays",
    "formats.open_cached": "formats.exports",
    "formats.runs": "formats.table_facts",
    "formats.short_floats": "formats.table_facts",
    "formats.table_cells": "formats.table_facts",
    "history.article": "history.story",
    "history.shared.formant_plane": "history.shared.exhibit",
    "history.shared.vowels": "history.shared.datasets",
    "history.shipped_traces": "history.systems",
    "in_app": "launch",
    "metrics.agreement": "metrics.comparison",
    "metrics.budget": "metrics.inputs",
    "metrics.chosen": "metrics.inputs",
    "metrics.divergence": "metrics.significance",
    "metrics.doctor_of_layers": "metrics.doctor",
    "metrics.doctor_of_pairs": "metrics.doctor_rows",
    "metrics.doctor_of_rows": "metrics.doctor_rows",
    "metrics.doctor_of_texts": "metrics.doctor_rows",
    "metrics.expert_company": "metrics.expert",
    "metrics.expert_sentence": "metrics.expert_tokens",
    "metrics.likeness": "metrics.label_similarity",
    "metrics.luck": "metrics.significance",
    "metrics.recorded": "metrics.inputs",
    "metrics.router_rows": "metrics.expert",
    "metrics.runs": "metrics.findings",
    "metrics.said_of_counts": "metrics.load",
    "metrics.said_of_engines": "metrics.engine_difference",
    "metrics.said_of_several": "metrics.multi_trace",
    "metrics.several": "metrics.multi_trace",
    "metrics.side_by_side": "metrics.system_table",
    "metrics.statistics": "metrics.inputs",
    "metrics.word_change": "metrics.effect",
    "names": "text",
    "one_call": "quick_view",
    "report.style": "report.page",
    "samples": "testing",
    "serving.known": "serving.memory",
    "serving.phases": "serving.requests",
    "serving.plans.llama_cpp": "serving.plans.engines",
    "serving.plans.load_tables": "serving.plans.engines",
    "serving.plans.rows": "serving.plans.plan",
    "serving.plans.slot_maps": "serving.plans.engines",
    "serving.policies": "serving.cache",
    "serving.split": "serving.answers",
    "training.checkpoint_check": "training.snapshots",
    "training.counters": "training.router_hooks",
    "training.counts_files": "training.routing_file",
    "training.events": "training.trainer_logs",
    "training.example": "training.reading",
    "training.figures": "training.layer_metrics",
    "training.found": "training.reading",
    "training.hearing": "training.router_hooks",
    "training.measures": "training.layer_metrics",
    "training.megatron": "training.trainer_logs",
    "training.meter": "training.routing_health",
    "training.recorded.at_end": "training.recorded.over_steps",
    "training.recorded.figures_over_steps": "training.recorded.over_steps",
    "training.recorded.verdict": "training.recorded.captions",
    "training.resumed": "training.snapshots",
}
# Of a moved module, what is also called by another name now.
NAMES = {
    "capture.interventions.exchange": {"Exchange": "Swap"},
    "corpus.keeping": {"keeping_tokens": "expert_specific_tokens"},
    "embedded.routing_over_training": {"FOLDER": "OVER_TRAINING"},
    "history.shared.vowels": {"SHA256": "VOWELS_SHA256"},
    "metrics.expert_sentence": {"what_it_does": "expert_summary", "by_counts": "expert_summary_of_counts"},
    "metrics.likeness": {"label_likeness": "label_similarity"},
    "metrics.recorded": {
        "counted_layers": "layer_counts",
        "of_each_layer": "per_layer",
        "of_tokens": "needs_tokens",
    },
    "metrics.said_of_counts": {"said_of_counts": "counts_summary"},
    "metrics.said_of_engines": {"said_of_engines": "engine_difference_summary", "said_of_shift": "shift_caption"},
    "metrics.said_of_several": {"said_of_several": "multi_trace_summary"},
    "training.counts_files": {"FOLDER": "COUNTS_FOLDER"},
    "training.example": {"FOLDER": "EXAMPLE_FOLDER", "NAMES": "EXAMPLE_NAMES"},
    "training.figures": {"figures_of": "log_metrics"},
    "training.measures": {"rows_of": "layer_metrics"},
    "training.resumed": {"are_others": "routers_differ"},
}


class MovedModules(MetaPathFinder, Loader):
    """Import a module by the name that it had: it warns, and has the names of the module that took them over."""

    @no_type_check  # every import comes through it, those of a type checker too
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a moved module; None for every other name."""
        moved = fullname.startswith(PACKAGE) and fullname.removeprefix(PACKAGE) in MODULES
        return ModuleSpec(fullname, self) if moved else None

    def exec_module(self, module: ModuleType) -> None:
        """Let the module look its names up where they are now."""
        old = module.__name__.removeprefix(PACKAGE)
        now = PACKAGE + MODULES[old]
        warnings.warn(f"moeviz.{old} is {now} now: import from there.", DeprecationWarning, stacklevel=2)

        def lookup(name: str) -> Any:
            return getattr(import_module(now), NAMES.get(old, {}).get(name, name))

        module.__getattr__ = lookup  # type: ignore[method-assign]


def keep_old_names() -> None:
    """Find moved modules from now on, before all others: a folder of data may have the name that one had."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, MovedModules())
