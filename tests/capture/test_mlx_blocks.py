"""Recording MoE blocks of MLX: the weights that they apply, or a refusal. The blocks are made up here."""

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed (make test-mlx)")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (make test-mlx)")
pytestmark = pytest.mark.mlx
nn = pytest.importorskip("mlx.nn")
WIDTH, EXPERTS, SLOTS = 16, 6, 3


def block_of(kind: str):
    """A model of one layer with one block, which uses its experts' answers as `kind` says."""
    from mlx_lm.models.switch_layers import SwitchGLU

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
            self.switch_mlp = SwitchGLU(WIDTH, 8, EXPERTS)
            self.shared_experts = nn.Linear(WIDTH, WIDTH)
            self.coefficient = nn.Linear(WIDTH, 2)

        def __call__(self, x):
            scores = mx.softmax(self.gate(x), axis=-1)
            ids = mx.argpartition(-scores, kth=SLOTS - 1, axis=-1)[..., :SLOTS]
            weights = mx.take_along_axis(scores, ids, axis=-1)
            if kind == "twice":
                self.switch_mlp(x, ids)
            answers = self.switch_mlp(x, ids)
            mixed = (answers * weights[..., None]).sum(axis=-2)
            return {
                "scaled after": lambda: mixed * 2.5,
                "a coefficient of the token": lambda: mixed * mx.softmax(self.coefficient(x), axis=-1)[..., :1],
                "squared": lambda: mixed * mx.abs(mixed),
                "normed": lambda: mixed / mx.linalg.norm(mixed, axis=-1, keepdims=True),
                "something added": lambda: mixed + self.coefficient(x)[..., :1],
                "largest": lambda: answers.max(axis=-2),
                "half a width": lambda: mixed[..., : WIDTH // 2],
            }.get(kind, lambda: mixed)() + (self.shared_experts(x) if kind == "shared" else 0)

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = Block()

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [Layer()]

    mx.random.seed(3)
    return Model()


def record_block(kind: str, dtype=None):
    from moeviz.capture.engines.mlx.blocks import find_blocks
    from moeviz.capture.engines.mlx.hooks import BlockHooks, host

    model = block_of(kind)
    block = model.layers[0].mlp
    x = mx.random.normal((1, 5, WIDTH))
    own = np.array(block(x))
    hooks = BlockHooks(find_blocks(model))
    hooks.check(lambda: block(x))
    hooks.recorded.clear()
    out = block(x)
    found = hooks.recorded[0]
    assert (np.array(out) == own).all()  # what it computes is what it computed
    scores = np.array(mx.softmax(found.logits, axis=-1))
    ids = host(found.experts)
    return host(found.weights), np.take_along_axis(scores, ids, -1).reshape(-1, SLOTS), block, x


@pytest.mark.parametrize(("kind", "factor"), [("plain", 1), ("shared", 1), ("scaled after", 2.5)])
def test_weights_are_what_the_block_multiplies_with(kind, factor):
    weights, scores, _, _ = record_block(kind)
    assert np.abs(weights - factor * scores).max() < 1e-6


def test_a_coefficient_of_each_token_is_part_of_its_weights():
    weights, scores, block, x = record_block("a coefficient of the token")
    share = np.array(mx.softmax(block.coefficient(x), axis=-1))[..., :1].reshape(-1, 1)
    assert np.abs(weights - share * scores).max() < 1e-6


@pytest.mark.parametrize("kind", ["squared", "normed", "largest", "something added", "half a width", "twice"])
def test_a_block_that_does_something_else_with_its_experts_is_refused(kind):
    from moeviz.errors import CaptureError

    with pytest.raises(CaptureError, match="transformers"):
        record_block(kind)


def test_llama_4_is_refused_since_its_weights_are_before_its_experts():
    from mlx_lm.models import llama4

    from moeviz.capture.engines.mlx.blocks import find_blocks
    from moeviz.errors import CaptureError

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [llama4.MLP.__new__(llama4.MLP)]

    model = Model()
    nn.Module.__init__(model.layers[0])
    with pytest.raises(CaptureError, match="4 multiplies"):
        find_blocks(model)
