"""One architecture per router mechanism, which `make test` runs; the others are run by `make survey`."""

from collections.abc import Iterable

import pytest

from survey.tiny_models import architectures

# Why each is here, by the columns of moeviz/capture/routers/families.csv. What shares every column with one of these
# is told apart by names alone.
MECHANISMS = {
    "mixtral": "softmax, the best k of all, renormalised",
    "qwen2_moe": "renormalised where the configuration says so, beside a shared expert with a gate of its own",
    "deepseek_v2": "softmax, groups by their best expert, scaled",
    "deepseek_v3": "sigmoid, a selection bias, groups by the sum of their two best, scaled",
    "deepseek_v4": "two kinds in one model: by token id, and the square root of a softplus",
    "axk2": "groups that are masked with 0",
    "gpt_oss": "softmax over the chosen alone, and a bias of the router's linear layer",
    "ernie4_5_moe": "softmax with a selection bias",
    "lfm2_moe": "sigmoid with a selection bias, without groups",
    "granitemoe": "one parallel layer of experts, whose sum the block scales",
    "nemotron_h": "some layers are attention or Mamba; experts work in a latent space",
    "longcat_flash": "some experts compute nothing, and two blocks share a layer",
    "dbrx": "the block chooses, not the router",
    "llama4": "answers with the scores of all experts, and scales inputs, not outputs",
    "jetmoe": "sorts its choices by expert, and routes attention too",
    "switch_transformers": "an encoder and a decoder, and a capacity",
    "nllb_moe": "the one that transformers itself does not route as its router decides",
    "phimoe": "a softmax for each of its choices (SparseMixer)",
    "doge": "ranks pairs of keys",
    "gemma4": "normalises what it reads",
    "inkling": "renormalises together with shared experts",
    "inkling2_loop": "one router runs several times in a forward",
    "kolibri1": "ranks by logit and bias",
    "zaya": "an MLP that reads the router of the layer before, and a class that skips the layer",
}

# What else there is to opening a checkpoint by name.
OPENED_AS = {
    "qwen3_vl_moe": "a model that reads images too",
    "qwen3_omni_moe": "a part of the checkpoint",
    "kimi_k25": "a model whose text part is another architecture",
    "dots3_note": "the text part of a checkpoint with a vision tower",
    "openai_privacy_filter": "a model that labels tokens",
    "diffusion_gemma": "a decoder that reads no tokens",
}


def each(names: Iterable[str] | None = None, keep: Iterable[str] = MECHANISMS) -> list:
    """Architectures as cases of a test: those not in `keep` have the marker `survey`."""
    kept = set(keep)
    names = architectures() if names is None else names
    return [pytest.param(name, marks=() if name in kept else pytest.mark.survey) for name in names]
