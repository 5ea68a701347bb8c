"""What a real vLLM server says of its routing is what transformers decides, id for id, in float32: `make test-vllm`."""

import logging
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from vllm_server import ROUTED, vllm, vllm_on_two_nodes, write_mixtral, write_qwen3

import moeviz
from moeviz import CaptureError
from moeviz.embedded import embedded_path
from moeviz.embedded.evaluation import evaluation_set
from moeviz.routing_trace import RoutingTrace

pytestmark = pytest.mark.vllm
NEW = 5
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory):
    return write_mixtral(tmp_path_factory.mktemp("mixtral"))


@pytest.fixture(scope="module")
def server(mixtral, tmp_path_factory):
    with vllm(mixtral, tmp_path_factory.mktemp("vllm"), ROUTED) as running:
        yield running


@pytest.fixture(scope="module")
def served(server, mixtral):
    return moeviz.load_model(f"vllm+{server.url}?facts={mixtral}")


def texts(number: int) -> list[str]:
    """Of many lengths; every other one begins with the same 96 letters, which the server has in its cache then."""
    draw = random.Random(0)
    prefix = "".join(draw.choice("abcdefghij ") for _ in range(96))
    own = ["".join(draw.choice("abcdefgh ,.0123é") for _ in range(draw.randint(3, 120))) for _ in range(number)]
    return [(prefix if at % 2 else "") + text for at, text in enumerate(own)]


def cells_that_differ(got: RoutingTrace, want: RoutingTrace) -> int:
    """Tokens and layers at which the two name other experts, in whatever order. The tokens must be the same.

    Bytes that never become a character are called by their number, since a server does not say what its vocabulary
    calls them.
    """
    assert got.model.layers == want.model.layers
    for column in ("token_id", "position", "phase"):
        assert got.tokens[column].tolist() == want.tokens[column].tolist(), column
    texts = got.tokens["text"].where(~got.tokens["text"].str.startswith("⟨token "), want.tokens["text"])
    assert texts.tolist() == want.tokens["text"].tolist()
    return int((np.sort(got.experts, -1) != np.sort(want.experts, -1)).any(-1).sum())


def test_prompts_and_generated_tokens_asked_at_once_with_shared_prefixes(served, mixtral):
    """The control: the same trace with its tokens moved by one differs at most of its cells."""
    here = moeviz.load_model(str(mixtral))
    prompts = texts(60)
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda text: moeviz.trace(served, text, max_new_tokens=NEW), prompts))
    want = [moeviz.trace(here, text, max_new_tokens=NEW, kernels=False) for text in prompts]
    cells = sum(trace.recorded.size for trace in want)
    log.info("%d token-layer cells compared", cells)
    assert all(trace.recorded.all() for trace in got)
    assert sum(map(cells_that_differ, got, want)) == 0, f"of {cells}"
    moved = np.roll(np.sort(got[0].experts, -1), 1, axis=1)
    assert (moved != np.sort(want[0].experts, -1)).any(-1).mean() > 0.5
    assert got[0].weights is None and got[0].model.slot_order == "unknown"
    assert got[0].model.recorded_by.startswith("its server (0.") and got[0].model.parameters == here.info.parameters


def test_a_prefix_that_is_left_out(server, mixtral, served):
    whole = moeviz.trace(served, "The prefix, and the rest", max_new_tokens=NEW)
    part = moeviz.trace(
        moeviz.load_model(f"vllm+{server.url}?experts=8&start=12"), "The prefix, and the rest", max_new_tokens=NEW
    )
    assert part.tokens["position"].tolist() == list(range(12, 24 + NEW - 1))
    assert np.array_equal(part.experts, whole.experts[:, 12:])


def test_chats(served, mixtral):
    got, want = (
        moeviz.trace(model, "Hi!", max_new_tokens=NEW, chat=True, system="Be brief.")
        for model in (served, moeviz.load_model(str(mixtral)))
    )
    assert served.chats and cells_that_differ(got, want) == 0


def test_what_the_server_refuses_is_passed_on_and_nothing_is_lost(served):
    with pytest.raises(moeviz.InvalidPrompt, match="max_tokens"):
        moeviz.trace(served, "Hello", max_new_tokens=4000)
    assert len(moeviz.trace(served, "Hello").tokens) == 5 == served.count_tokens("Hello")


def test_the_embedded_model(tmp_path):
    with vllm(embedded_path(), tmp_path, ROUTED) as running:
        served, here = moeviz.load_model(f"vllm+{running.url}?facts=embedded"), moeviz.load_model()
        prompts = [one.text[:150] for one in evaluation_set()[::4]][:24]
        got = [moeviz.trace(served, text, max_new_tokens=16) for text in prompts]
        want = [moeviz.trace(here, text, max_new_tokens=16, kernels=False) for text in prompts]
        cells = sum(trace.recorded.size for trace in want)
        log.info("%d token-layer cells compared", cells)
        assert sum(map(cells_that_differ, got, want)) == 0, f"of {cells}"


def test_a_model_on_two_nodes(mixtral, tmp_path):
    with vllm_on_two_nodes(mixtral, tmp_path, ROUTED) as running:
        served, here = moeviz.load_model(f"vllm+{running.url}?facts={mixtral}"), moeviz.load_model(str(mixtral))
        pairs = [
            (
                moeviz.trace(served, text, max_new_tokens=NEW),
                moeviz.trace(here, text, max_new_tokens=NEW, kernels=False),
            )
            for text in texts(20)
        ]
        log.info("%d token-layer cells compared", sum(want.recorded.size for _, want in pairs))
        assert sum(cells_that_differ(got, want) for got, want in pairs) == 0


def test_a_server_that_was_not_started_to_return_routing(mixtral, tmp_path):
    with (
        vllm(mixtral, tmp_path) as running,
        pytest.raises(CaptureError, match="--enable-return-routed-experts"),
    ):
        moeviz.load_model(f"vllm+{running.url}?facts={mixtral}")


def test_dense_layers_and_a_server_that_is_killed_in_a_request(tmp_path):
    """Dense layers are rows of zeros, and three experts of a token come in no order."""
    qwen3 = write_qwen3(tmp_path / "qwen3")
    with vllm(qwen3, tmp_path, ROUTED) as running:
        served, here = moeviz.load_model(f"vllm+{running.url}?facts={qwen3}"), moeviz.load_model(str(qwen3))
        pairs = [(moeviz.trace(served, t), moeviz.trace(here, t, kernels=False)) for t in texts(6)]
        assert sum(cells_that_differ(got, want) for got, want in pairs) == 0
        by_zeros = moeviz.load_model(f"vllm+{running.url}?experts=8")
        assert by_zeros.info.layers == (1, 3) == served.info.layers and "left out: 0 and 2." in by_zeros.info.caution
        with pytest.raises(CaptureError, match="whole"):
            moeviz.trace(served, "Hello", max_new_tokens=240, progress=lambda done, total: running.kill())
        with pytest.raises(CaptureError, match="http"):
            moeviz.trace(served, "Hello")
