"""The model that ships: small enough, offline, and with experts that tell languages, code and sums apart."""

import numpy as np
import pytest

import moeviz
from moeviz.embedded import embedded_path
from moeviz.metrics.load import expert_load

TEXTS = {
    "English": "And it came to pass in those days, that the people of the land went out to meet him.",
    "German": "Und es geschah in jenen Tagen, dass das Volk des Landes hinausging, ihm entgegen.",
    "French": "Et il arriva en ces jours-là que le peuple du pays sortit à sa rencontre.",
    "Python": "def load(self, path):\n    with open(path) as file:\n        return [line for line in file]\n",
    "sums": "12 + 7 = 19\n45 - 6 = 39\n8 * 7 = 56\n120 + 31 = 151\n",
}


@pytest.fixture(scope="module")
def loads():
    """Share of assignments per layer and expert, (6, 8), for each kind of text."""
    model = moeviz.load_model()
    traces = {name: moeviz.trace(model, text) for name, text in TEXTS.items()}
    return {name: expert_load(trace)["load"].to_numpy().reshape(6, 8) for name, trace in traces.items()}


def jsd(p, q):
    """Jensen-Shannon divergence in bits: 0 for the same load, 1 for loads that share no expert."""
    middle = (p + q) / 2

    def divergence(a):
        used = a > 0
        return float((a[used] * np.log2(a[used] / middle[used])).sum())

    return (divergence(p) + divergence(q)) / 2


@pytest.mark.parametrize("one", TEXTS)
@pytest.mark.parametrize("other", TEXTS)
def test_different_kinds_of_text_take_different_experts(loads, one, other):
    if one != other:
        assert max(jsd(p, q) for p, q in zip(loads[one], loads[other], strict=True)) > 0.1


def test_all_that_is_needed_ships_and_is_small():
    sizes = {path.name: path.stat().st_size for path in embedded_path().iterdir() if path.is_file()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "MODEL_CARD.md"} <= set(sizes)
    assert sum(sizes.values()) < 45_000_000
