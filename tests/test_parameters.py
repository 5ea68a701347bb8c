"""Parameter counts against published figures and against the models' own tensors."""

from dataclasses import replace

import pytest
import torch
from survey.tiny_models import random_model, tiny_config
from tiny_models import CONFIGS, tiny_model
from transformers import (
    MixtralConfig,
    SwitchTransformersConfig,
)

from moeviz.capture.models.known_models import KNOWN_MODELS
from moeviz.capture.models.kv_cache import _tensors, kv_cache
from moeviz.capture.models.load import load_model, model_config, model_facts
from moeviz.capture.models.parameters import count_parameters, empty_model, packed_of, parameters_of_config
from moeviz.model_info import PARTS, ParameterCounts
from moeviz.parameters import (
    BITS,
    CARDS,
    CONVENTIONS,
    active_parameters,
    cards_needed,
    touched_parameters,
    weight_bytes,
)

BILLION = 10**9


def by_hand():
    """Two MoE layers of 4 experts, 10 and 20 parameters each: 120 in experts, and 1 + 2 + 4 + 8 + 16 + 32 + 64 else."""
    return ParameterCounts(1, 2, 4, 8, 120, 16, 32, 64, per_expert=(10, 20))


def test_active_counts_top_k_experts_a_layer_and_all_the_rest():
    counts = by_hand()
    assert counts.total == sum(getattr(counts, part) for part in PARTS) == 127 + 120
    assert [active_parameters(counts, 2, convention) for convention in CONVENTIONS] == [187, 186, 184]


def test_touched_counts_each_used_expert_once():
    assert touched_parameters(by_hand(), [0, 3]) == 127 + 60
    assert touched_parameters(by_hand(), [4, 4]) == by_hand().total


def test_mixtral_8x7b_to_the_last_parameter():
    info = parameters_of_config(MixtralConfig(vocab_size=32000))
    assert info.parameters.total == 46_702_792_704
    assert active_parameters(info.parameters, info.top_k) == 12_879_925_248


@pytest.mark.parametrize("family", CONFIGS)
def test_parts_sum_to_the_tensors_and_norms_outside_attention_are_other(family):
    config = CONFIGS[family]
    model = tiny_model(config)
    counts = count_parameters(model)
    assert counts.total == sum(p.numel() for p in model.parameters())
    experts = [part for path, part in model.named_modules() if path.endswith(".experts")]
    assert counts.routed_experts == sum(p.numel() for part in experts for p in part.parameters())
    assert counts.attention > 0
    assert counts.other == sum(p.numel() for n, p in model.named_parameters() if "norm" in n and "self_attn" not in n)


def test_layers_without_experts_and_shared_experts_have_their_own_part():
    qwen, deepseek = (parameters_of_config(CONFIGS[family]).parameters for family in ("qwen3_moe", "deepseek_v3"))
    assert qwen.dense_layers == 3 * 32 * 48
    assert deepseek.dense_layers == 3 * 32 * 48
    assert deepseek.shared_experts == 2 * 3 * 32 * 16
    assert qwen.shared_experts == 0


def test_a_tied_matrix_counts_once_and_stays_without_the_input_embedding():
    counts = load_model().info.parameters
    assert counts.tied
    assert counts.total == 12_729_600
    assert active_parameters(counts, 2, CONVENTIONS[0]) == active_parameters(counts, 2, CONVENTIONS[1])


def test_a_config_says_what_the_loaded_model_says():
    facts = model_facts("embedded")
    assert facts.dtype == "bfloat16"  # as stored; it is opened as float32
    assert replace(facts, dtype="float32") == load_model().info


@pytest.mark.parametrize("family", CONFIGS)
def test_a_config_counts_what_a_model_in_memory_counts(family):
    assert parameters_of_config(CONFIGS[family]).parameters == count_parameters(tiny_model(CONFIGS[family]))


def test_no_memory_is_taken_for_weights():
    assert {p.device for p in empty_model(MixtralConfig()).parameters()} == {torch.device("meta")}


@pytest.mark.parametrize("name", KNOWN_MODELS)
def test_a_well_known_model_has_the_parameters_that_its_maker_publishes(name):
    """Totals within 1%; active ones, printed to two digits, within one of the last digit."""
    known, info = KNOWN_MODELS[name], model_facts(name)
    vision = 0.9 if "vision" in known.remark else 0  # billions that the maker's total has, and the text part has not
    assert info.parameters.total / BILLION + vision == pytest.approx(known.total, rel=0.01)
    if known.active is None:
        return
    active = active_parameters(info.parameters, info.top_k, known.convention) / BILLION
    last_digit = 1 if known.active == int(known.active) and known.active >= 10 else 0.1
    assert abs(active - known.active) < last_digit
    assert info.name == name


def test_a_model_that_is_too_big_to_build_is_counted_from_two_small_ones():
    """Exactly what building it gives, for a number of experts that can be built."""
    config = SwitchTransformersConfig(
        vocab_size=100, d_model=16, d_kv=4, d_ff=24, num_heads=4, num_layers=4, num_decoder_layers=4, num_experts=9
    )
    info, model = parameters_of_config(config), empty_model(config)
    assert info.parameters.total == sum(p.numel() for p in model.parameters())
    experts = [part for path, part in model.named_modules() if path.endswith("experts")]
    assert info.parameters.routed_experts == sum(p.numel() for part in experts for p in part.parameters())
    assert len(info.layers) == len(info.parameters.per_expert) == len(experts)
    assert info.num_experts == (9,) * len(experts)
    assert info.parameters.attention == sum(p.numel() for n, p in model.named_parameters() if "ttention." in n)


def test_a_model_with_two_routers_a_layer_is_counted_whole():
    config = tiny_config("jetmoe")
    info, model = parameters_of_config(config), empty_model(config)
    assert info.parameters.total == sum(p.numel() for p in model.parameters())
    assert info.site == "feed-forward and attention"
    assert len(info.parameters.per_expert) == 2 * config.num_hidden_layers
    assert 0 < active_parameters(info.parameters, info.top_k) < info.parameters.total


@pytest.mark.parametrize(
    ("name", "tokens", "expected"),
    [
        ("deepseek-ai/DeepSeek-V3", 1, 70_272),  # Insights into DeepSeek-V3 (arXiv 2505.09343), table 1
        ("mistralai/Mixtral-8x7B-v0.1", 1000, 1000 * 2 * 32 * 2 * 8 * 128),
        ("openai/gpt-oss-20b", 1000, (12 * 1000 + 12 * 127) * 2 * 2 * 8 * 64),  # every other layer keeps a window
    ],
)
def test_keys_and_values_take_what_is_published_or_counted_by_hand(name, tokens, expected):
    assert 2 * sum(layer.values(tokens) for layer in kv_cache(model_config(name))) == expected


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_next", "lfm2_moe", "nemotron_h", "deepseek_v3", "zaya"])
def test_keys_and_values_take_what_a_model_in_memory_keeps(architecture):
    """Windows, convolutions, recurrent states and latents; 40 tokens are more than a window of 16."""
    layers, model = kv_cache(tiny_config(architecture)), random_model(architecture)
    for tokens in (5, 40):
        with torch.no_grad():
            kept = model(torch.zeros(1, tokens, dtype=torch.long), use_cache=True).cache.layers
        counted = sum(part.numel() for layer in kept for part in _tensors(vars(layer)))
        assert sum(layer.values(tokens) for layer in layers) == counted


def test_caches_that_shapes_do_not_tell_are_not_guessed():
    assert kv_cache(tiny_config("deepseek_v4")) is None
    assert kv_cache(tiny_config("switch_transformers")) is None


def test_cards_are_counted_with_room_left():
    for card, size in CARDS.items():
        assert cards_needed(int(size * 0.9e9), card) == 1
        assert cards_needed(int(size * 0.9e9) + 1_000, card) == 2
    assert [weight_bytes(80, bits) for bits in BITS] == [320, 160, 80, 40]


def test_experts_that_are_linear_layers_are_packed_by_bitsandbytes():
    """Most are fused. Here a part of Mixtral's is a module of its own; its head is left out."""
    model = empty_model(MixtralConfig(num_hidden_layers=1, hidden_size=64, intermediate_size=96, num_local_experts=4))
    before = packed_of(model)
    model.model.layers[0].mlp.experts.extra = torch.nn.Linear(64, 96, bias=False)
    assert packed_of(model) == (before[0] + 64 * 96, 64 * 96) and before[1] == 0
