"""The Switch layer of 2021, worked by hand: who goes where, who is dropped, what is learnt, and the balancing loss."""

import pytest
import torch

from moeviz.history.shared.experts import balancing_loss
from moeviz.history.switch_2021.model import DenseLayer, SwitchLayer, capacity, matrix


def layer_by_hand(capacity_factor: float = 1.0) -> SwitchLayer:
    """Two experts over tokens of two numbers: the router reads them as logits, expert 0 doubles, expert 1 trebles."""
    layer = SwitchLayer(2, 2, 2, capacity_factor, torch.Generator())
    with torch.no_grad():
        layer.router.copy_(torch.eye(2))
        layer.into.copy_(torch.eye(2).expand(2, 2, 2))
        layer.out_of.copy_(torch.stack([2 * torch.eye(2), 3 * torch.eye(2)]))
    return layer


TOKENS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [3.0, 0.0]])


def test_a_layer_routes_scales_and_drops_as_worked_by_hand():
    """Four tokens, two experts, capacity 4 / 2 · 1 = 2. Tokens 0, 2 and 3 want expert 0: 3 comes too late.

    p of the winner is sigmoid(1), sigmoid(1) and sigmoid(2); outputs are p · 2 · 1, p · 3 · 1 and p · 2 · 2.
    """
    routed = layer_by_hand()(TOKENS)
    assert routed.chosen.tolist() == [0, 1, 0, 0] and routed.dropped.tolist() == [False, False, False, True]
    one, two = torch.sigmoid(torch.tensor([1.0, 2.0])).tolist()
    assert routed.output.tolist() == [
        pytest.approx([2 * one, 0]),
        pytest.approx([0, 3 * one]),
        pytest.approx([4 * two, 0]),
        [0, 0],
    ]
    assert torch.equal(routed.logits, TOKENS) and routed.probabilities.sum(1).tolist() == pytest.approx([1] * 4)


def test_one_expert_is_the_dense_layer():
    layer, dense = (kind(torch.Generator().manual_seed(1)) for kind in (_one_expert, lambda g: DenseLayer(3, 4, g)))
    with torch.no_grad():
        dense.into.copy_(layer.into[0])
        dense.out_of.copy_(layer.out_of[0])
    tokens = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
    assert layer(tokens).output.detach().numpy() == pytest.approx(dense(tokens).detach().numpy(), abs=1e-6)


def _one_expert(generator: torch.Generator) -> SwitchLayer:
    return SwitchLayer(3, 4, 1, 1.0, generator)


def test_the_router_learns_through_the_probability_and_a_dropped_token_teaches_nothing():
    layer = layer_by_hand()
    tokens = TOKENS.clone().requires_grad_()
    layer(tokens).output.sum().backward()
    assert layer.router.grad.abs().sum() > 0 and (tokens.grad[3] == 0).all() and (tokens.grad[:3] != 0).any(1).all()


@pytest.mark.parametrize(
    ("tokens", "experts", "factor", "room"), [(1024, 8, 1.25, 160), (10, 4, 1.0, 3), (100, 7, 1.05, 15), (8, 8, 0.5, 1)]
)
def test_capacity_is_rounded_up_and_no_rounding_error_adds_a_place(tokens, experts, factor, room):
    assert capacity(tokens, experts, factor) == room


def test_the_balancing_loss_is_1_where_routing_is_uniform_and_n_where_it_has_collapsed():
    chosen = torch.arange(32) % 8
    assert float(balancing_loss(torch.full((32, 8), 1 / 8), chosen)) == 1
    collapsed = torch.eye(8)[torch.zeros(32, dtype=torch.long)]
    assert float(balancing_loss(collapsed, torch.zeros(32, dtype=torch.long))) == 8


def test_jitter_changes_what_the_router_reads_by_one_per_cent_at_most():
    layer, tokens = layer_by_hand(2.0), torch.ones(1000, 2)
    read = layer(tokens, torch.Generator().manual_seed(0)).logits.detach()
    assert 0.99 <= float(read.min()) < 0.991 and 1.009 < float(read.max()) <= 1.01
    assert torch.equal(layer(tokens).logits, tokens)


def test_weights_start_at_a_tenth_of_the_usual_variance_cut_at_two_deviations():
    weights = matrix(torch.Generator().manual_seed(0), 4, 100, 1000).detach()
    assert float(weights.abs().max()) <= 2 * (0.1 / 100) ** 0.5
    assert float(weights.std()) == pytest.approx(0.88 * (0.1 / 100) ** 0.5, rel=0.01)
