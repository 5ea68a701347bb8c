"""What the memory of a served model depends on, from its config alone."""

from transformers import PreTrainedConfig

from moeviz.capture.models.kv_cache import kv_cache
from moeviz.capture.models.load import model_config
from moeviz.capture.models.parameters import parameters_of_config
from moeviz.errors import CaptureError
from moeviz.footprint import ServedModel


def served_model(name: str, revision: str | None = None) -> ServedModel:
    """Read a model's config, by the same names as `load_model`. No weights are loaded.

    Raises `CaptureError` where moeviz cannot tell what the model keeps of a text, and what `model_facts` raises.
    """
    return served_by_config(model_config(name, revision), name)


def served_by_config(config: PreTrainedConfig, name: str) -> ServedModel:
    """The same from a config that was read already. Raises `CaptureError` as `served_model` does."""
    facts, caches = parameters_of_config(config, name), kv_cache(config)
    if caches is None or facts.parameters is None:
        raise CaptureError(
            f"moeviz cannot tell how much memory {name!r} keeps of a text: it has an encoder, or a cache that does not "
            "grow evenly. “moeviz params” says what its weights take."
        )
    text = config.get_text_config()
    return ServedModel(
        name=name,
        parameters=facts.parameters,
        num_experts=max(facts.num_experts),
        top_k=facts.top_k,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        caches=tuple(caches),
    )
