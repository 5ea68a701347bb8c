"""A user's adapter: what it reads is recorded and checked, and it runs only if somebody names it."""

import pytest
import torch
from survey.tiny_models import random_model, tokenizer
from torch import nn

import moeviz
from moeviz.capture.routers.router_adapters import ROUTER_ADAPTERS
from moeviz.cli.main import main
from moeviz.errors import CaptureError


class OwnRouter(nn.Module):
    """Answers with (expert ids, weights)."""

    def __init__(self, router):
        super().__init__()
        self.weight, self.top_k = router.weight, router.top_k

    def forward(self, hidden):
        weights, experts = (hidden @ self.weight.T).sigmoid().topk(self.top_k)
        return experts, weights


class OwnBlock(nn.Module):
    """Runs its experts all at once, or each of a list on its own rows."""

    def __init__(self, block, listed):
        super().__init__()
        self.router = OwnRouter(block.gate)
        self.experts = block.experts
        if listed:
            width = block.gate.weight.shape[1]
            self.experts = nn.ModuleList(nn.Linear(width, width) for _ in block.gate.weight)

    def forward(self, hidden):
        flat = hidden.flatten(0, 1)
        experts, weights = self.router(flat)
        if not isinstance(self.experts, nn.ModuleList):
            return self.experts(flat, experts, weights).view_as(hidden)
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            rows, slots = (experts == number).nonzero(as_tuple=True)
            out = out.index_add(0, rows, expert(flat[rows]) * weights[rows, slots, None])
        return out.view_as(hidden)


def own_model(listed=False):
    model = random_model("mixtral")
    for layer in model.model.layers:
        layer.mlp = OwnBlock(layer.mlp, listed)
    return model


def read(router, given, answer):
    return given[0] @ router.weight.T, answer[1], answer[0]


def read_other(router, given, answer):
    return None, answer[1], (answer[0] + 1) % len(router.weight)


def count(router):
    return len(router.weight)


@pytest.mark.parametrize("listed", [False, True], ids=["fused experts", "a list of experts"])
def test_what_an_adapter_reads_is_recorded_and_checked(listed):
    model, answered = own_model(listed), []
    with pytest.raises(CaptureError, match="register"):
        moeviz.trace(model, "12 + 7", tokenizer=tokenizer())
    moeviz.adapters.register(OwnRouter, read, num_experts=count)
    moeviz.trace(model, "12 + 7", tokenizer=tokenizer())  # the check is made
    model.model.layers[1].mlp.router.register_forward_hook(lambda _router, _given, answer: answered.append(answer))
    trace = moeviz.trace(model, "12 + 7", tokenizer=tokenizer())
    assert trace.model.witness.startswith("checked on ")
    (experts, weights), *_ = answered
    assert trace.experts[1].tolist() == experts.tolist() and trace.weights[1].tolist() == weights.tolist()


@pytest.mark.parametrize("listed", [False, True], ids=["fused experts", "a list of experts"])
def test_an_adapter_that_misreads_is_refused(listed):
    moeviz.adapters.register("OwnRouter", read_other, num_experts=count)
    with pytest.raises(CaptureError, match="layer 0, token 0"):
        moeviz.trace(own_model(listed), "12 + 7", tokenizer=tokenizer())


def test_an_adapter_that_raises_is_one_sentence():
    moeviz.adapters.register(OwnRouter, lambda _router, _given, answer: answer["weights"], num_experts=count)
    with pytest.raises(CaptureError, match=r"OwnRouter.*TypeError.*line \d+"):
        moeviz.trace(own_model(), "12 + 7", tokenizer=tokenizer())


def test_moevizs_own_adapters_are_not_replaced():
    with pytest.raises(CaptureError, match="ZayaRouter"):
        moeviz.adapters.register("ZayaRouter", read)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("def read(: pass", "SyntaxError"),
        ("raise SystemExit(7)", "SystemExit"),
        ("def read(router, given, answer):\n    return answer", "registers no adapter"),
    ],
)
def test_a_file_that_is_no_adapter_is_one_sentence(tmp_path, capsys, text, named):
    file = tmp_path / "own.py"
    file.write_text(text)
    assert main(["trace", "12 + 7", "--adapter", str(file), "-q"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert named in line and "own.py" in line


def test_a_file_on_the_command_line_registers_its_router(tmp_path, capsys):
    file = tmp_path / "own.py"
    file.write_text("import moeviz\nmoeviz.adapters.register('TheirRouter', lambda *given: given)\n")
    assert main(["trace", "12 + 7", "--adapter", str(file), "-q", "--json"]) == 0
    assert "TheirRouter" in ROUTER_ADAPTERS
    capsys.readouterr()


@pytest.mark.parametrize("way", ["--public", "--team"])
def test_an_app_for_others_runs_no_adapter(tmp_path, capsys, way):
    file = tmp_path / "own.py"
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    assert main(["app", way, "--adapter", str(file)]) == 3
    assert not (tmp_path / "ran").exists() and "adapter" in capsys.readouterr().err
