"""The training of the embedded model: the same mathematics as transformers, losses worked by hand, runs that go on."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import moeviz
from models.training import payoff
from models.training.__main__ import make_model
from models.training.documents import DOMAINS
from models.training.export import read_trained, to_bfloat16, to_transformers
from models.training.model import RouterOutput, Shape, TrainingMixture
from models.training.optimisers import WideMuon, make_optimisers, rate_factor
from models.training.routing_losses import RoutingLosses, domain_information, load_balancing_loss, z_loss
from models.training.study import PROXY
from models.training.token_files import Windows, held_out_windows, tokenise
from models.training.tokenizer import train_tokenizer
from models.training.train import SHAPES, Run, parse, shape_from, train
from models.training.validation import repetition

SMALL = Shape(vocabulary=96, hidden=128, expert_width=64, layers=2, heads=2, key_value_heads=1)
FINE_GRAINED = replace(SMALL, expert_width=16, experts=31, shared=1, top_k=7, scores="sigmoid")
OPTIONS = ["--tokens-per-step=512", "--long-from=1", "--hidden=128", "--layers=1", "--heads=2", "--seed=3"]


@pytest.fixture(scope="module")
def tokens_folder(tmp_path_factory):
    """A tokenised corpus of 15 domains, each with its own stretch of the vocabulary."""
    folder = tmp_path_factory.mktemp("tokens")
    rng = np.random.default_rng(0)
    for number, domain in enumerate(DOMAINS):
        for split in ("train", "held_out"):
            rng.integers(10 * number, 10 * number + 10, 4_000).astype(np.uint16).tofile(
                folder / f"{domain}.{split}.bin"
            )
        (folder / f"{domain}.json").write_text(json.dumps({"bytes_per_token": 3.0, "train_tokens": 4_000}))
    return folder


@pytest.mark.parametrize("shape", [SMALL, FINE_GRAINED], ids=lambda shape: shape.scores)
def test_transformers_computes_the_same_losses_from_the_same_weights(shape):
    model = TrainingMixture(shape, seed=1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "router" in name:
                weight.mul_(50)  # decided routers: a wrong expert would show
        for layer in model.layers if shape.scores == "sigmoid" else ():
            layer.bias += torch.linspace(-0.2, 0.2, shape.experts)  # and a bias that changes some choices
    ids = torch.randint(0, SMALL.vocabulary, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses, _ = model(ids[:, :-1], ids[:, 1:], dtype=torch.float32)
        logits = to_transformers(shape, model.state_dict())(ids[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [SMALL, FINE_GRAINED], ids=lambda shape: shape.scores)
def test_every_weight_has_one_optimiser(shape):
    model = TrainingMixture(shape)
    moved = [id(w) for optimiser in make_optimisers(model) for group in optimiser.param_groups for w in group["params"]]
    assert sorted(moved) == sorted(id(weight) for weight in model.parameters())


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (32, 32)])
def test_muon_in_float32_is_torch_s_but_for_the_rounding(size):
    generator = torch.Generator().manual_seed(0)
    first, gradients = torch.randn(size, generator=generator), torch.randn(3, *size, generator=generator)
    moved, states = {}, {}
    for kind in (torch.optim.Muon, WideMuon):
        weight = torch.nn.Parameter(first.clone())
        optimiser = kind([weight], lr=0.02, weight_decay=0.01, adjust_lr_fn="original")
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimiser.step()
        moved[kind], states[kind] = weight.detach() - first, optimiser.state_dict()["state"][0]
    there, here = moved[torch.optim.Muon], moved[WideMuon]
    assert torch.nn.functional.cosine_similarity(there.flatten(), here.flatten(), dim=0) > 0.999
    assert here.norm() == pytest.approx(there.norm().item(), rel=0.01)
    assert states[WideMuon].keys() == states[torch.optim.Muon].keys()
    torch.testing.assert_close(*(state["momentum_buffer"] for state in states.values()))


def test_a_run_in_float32_rounds_nothing_to_bfloat16():
    matrices, _ = make_optimisers(TrainingMixture(SMALL), torch.float32)
    assert isinstance(matrices, WideMuon)
    assert not isinstance(make_optimisers(TrainingMixture(SMALL))[0], WideMuon)


def routing(probabilities, experts):
    probabilities, experts = torch.tensor(probabilities), torch.tensor(experts)
    counts = torch.bincount(experts.flatten(), minlength=probabilities.shape[-1])
    return RouterOutput(probabilities.log(), probabilities, experts, counts)


def test_the_balancing_loss_is_one_for_an_even_load_and_the_number_of_experts_for_a_collapsed_router():
    assert load_balancing_loss(routing([[0.25] * 4] * 4, [[0, 1], [2, 3]] * 2)) == pytest.approx(1)
    assert load_balancing_loss(routing([[1.0, 0.0, 0.0, 0.0]] * 3, [[0]] * 3)) == pytest.approx(4)


def test_windows_with_an_expert_each_are_even_over_the_batch_and_collapsed_within_each_window():
    own = routing([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3, [[0]] * 3 + [[1]] * 3)
    assert load_balancing_loss(own) == pytest.approx(1)
    assert load_balancing_loss(own, windows=2) == pytest.approx(2)
    domains, window = torch.tensor([0, 1]), RoutingLosses(1.0, 0.0, 0.0, balance_within="window")
    assert float(window([own], domains, 2)) == pytest.approx(2)


def test_the_bias_makes_busy_experts_rarer_and_idle_ones_likelier():
    layer = TrainingMixture(FINE_GRAINED).layers[0]
    counts = torch.full((31,), 10)
    counts[:2] = torch.tensor([20, 0])
    layer.even_out(counts, 0.001)
    assert layer.bias[:3].tolist() == pytest.approx([-0.001, 0.001, 0])


def test_a_bias_chooses_but_does_not_weigh():
    layer = TrainingMixture(replace(FINE_GRAINED, experts=4, top_k=2)).layers[0]
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    layer.bias += torch.tensor([0.0, 0.0, 0.0, 1.0])
    _, weights, experts = layer.choose(logits)
    assert experts.tolist() == [[3, 0]]
    scores = logits.sigmoid()[0, [3, 0]]
    torch.testing.assert_close(weights[0], scores / scores.sum())


def test_a_bias_keeps_its_last_digits_where_weights_are_rounded():
    model = TrainingMixture(FINE_GRAINED)
    model.layers[1].bias += 0.123456
    exported = to_bfloat16(to_transformers(FINE_GRAINED, model.state_dict()))
    assert exported.dtype == torch.bfloat16
    gate = exported.model.layers[1].mlp.gate
    assert gate.e_score_correction_bias.dtype == torch.float32
    assert gate.e_score_correction_bias[0] == torch.tensor(0.123456)


def test_repetition_is_what_consecutive_tokens_have_in_common():
    ids = torch.tensor([[[0, 1], [0, 2], [2, 0], [1, 3]]])[None]  # one layer, one window
    assert repetition(ids).tolist() == [[pytest.approx(1 / 3)], [pytest.approx(2 / 3)]]


def test_the_z_loss_is_the_mean_squared_logsumexp():
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]])
    assert float(z_loss(logits)) == pytest.approx((math.log(2) ** 2 + math.log(4) ** 2) / 2)


def test_domains_with_an_expert_each_have_all_the_information():
    """Two domains, two windows each of one token; domain 0 uses expert 0 and domain 1 expert 1."""
    own = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    domains = torch.tensor([0, 1, 0, 1])
    assert float(domain_information(own, domains, 2)) == pytest.approx(math.log(2), abs=1e-6)
    assert float(domain_information(torch.full((4, 2), 0.5), domains, 2)) == pytest.approx(0, abs=1e-6)


def test_a_domain_that_is_not_in_the_batch_changes_nothing():
    own, domains = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([0, 1])
    assert float(domain_information(own, domains, 2)) == pytest.approx(float(domain_information(own, domains, 9)))


def test_the_information_term_rewards_and_the_others_punish():
    even = [routing([[0.5, 0.5]] * 2, [[0], [1]])]
    apart = [routing([[1.0, 0.0], [0.0, 1.0]], [[0], [1]])]
    domains = torch.tensor([0, 1])
    push = RoutingLosses(load_balancing=0.0, z=0.0, domain_information=1.0)
    assert float(push(apart, domains, 2)) == pytest.approx(-math.log(2), abs=1e-6)
    assert float(push(even, domains, 2)) == pytest.approx(0, abs=1e-6)
    assert float(RoutingLosses(1.0, 0.0, 0.0)(even, domains, 2)) == pytest.approx(1)


def test_the_learning_rate_warms_up_and_decays_to_nothing():
    assert rate_factor(0.3, step=1_000) == 1
    assert rate_factor(0.01, step=1_000) == pytest.approx(0.5)
    assert rate_factor(0.3, step=4) == pytest.approx(0.1)
    assert rate_factor(0.7, step=1_000) == pytest.approx(0.5)
    assert rate_factor(1.2, step=1_000) == 0


def test_a_step_draws_the_same_windows_whenever_it_is_run(tokens_folder):
    first, again = (Windows(tokens_folder, seed=5).draw(step=7, windows=9, length=16) for _ in range(2))
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    other = Windows(tokens_folder, seed=5).draw(step=8, windows=9, length=16)
    assert (first[0] != other[0]).any()


def test_windows_are_of_the_domain_that_they_say(tokens_folder):
    ids, domains = Windows(tokens_folder).draw(step=0, windows=50, length=16)
    assert ids.shape == (50, 17)
    assert (ids // 10 == domains[:, None]).all()
    assert (held_out_windows(tokens_folder, DOMAINS[3], 4, 16) // 10 == 3).all()


def test_the_switches_start_from_a_shape():
    assert shape_from(parse(["tokens", "out", "--tokens=1"])) == Shape()
    half = shape_from(parse(["tokens", "out", "--tokens=1", "--shape=fine-grained", "--hidden=128", "--layers=4"]))
    assert half == replace(SHAPES["fine-grained"], hidden=128, layers=4, expert_width=32)
    dense = shape_from(parse(["tokens", "out", "--tokens=1", "--experts=1", "--top-k=1", "--expert-width=512"]))
    assert dense == Shape(experts=1, top_k=1, expert_width=512)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tokens_folder, tmp_path, shape):
    def run(name, tokens):
        where = [str(tokens_folder), str(tmp_path / name), "--shape", shape, "--dtype", "float32"]
        return Run(parse([*where, "--tokens", str(tokens), *OPTIONS]))

    whole = run("whole", 4 * 512)
    train(whole)
    stopped = run("stopped", 4 * 512)
    for _ in range(2):
        stopped.step()
    stopped.save()
    resumed = run("stopped", 4 * 512)
    assert resumed.position.step == 2
    train(resumed)
    assert resumed.position.tokens == whole.position.tokens
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


def test_training_lowers_the_loss_and_reports_it(tokens_folder, tmp_path):
    run = Run(parse([str(tokens_folder), str(tmp_path), "--tokens", "10240", *OPTIONS]))
    before = run.report()
    after = train(run)
    assert after.bits_per_byte < before.bits_per_byte
    assert set(after.nats) == set(DOMAINS)
    lines = [json.loads(line) for line in (tmp_path / "reports.jsonl").read_text().splitlines()]
    assert [line["tokens"] for line in lines] == [0, 10_240]
    shape, snapshot = read_trained(tmp_path / "snapshot-0000010240.pt")
    assert shape == run.model.shape
    assert all(weight.dtype == torch.bfloat16 for weight in snapshot.values())
    assert to_transformers(shape, snapshot).dtype == torch.float32


def test_the_length_of_a_training_must_be_given(capsys):
    with pytest.raises(SystemExit):
        parse(["tokens", "out"])
    assert "--minutes" in capsys.readouterr().err


TEXTS = {domain: f"{domain}: naïve 漢字 🙂\t\x00 12 + 7 = 19\r\n" for domain in DOMAINS}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder in which the corpus is there already: 120 documents of each domain."""
    corpus = tmp_path_factory.mktemp("work") / "corpus"
    corpus.mkdir()
    for domain, text in TEXTS.items():
        documents = [{"source": "s", "file": f"{n}", "licence": "CC0", "text": f"{n} {text}" * 40} for n in range(120)]
        lines = "".join(json.dumps(document) + "\n" for document in documents)
        (corpus / f"{domain}.jsonl").write_text(lines, encoding="utf-8")
    (corpus / "corpus.json").write_text("{}")
    return corpus.parent


def test_the_whole_way_from_texts_to_a_model_that_moeviz_opens(work, monkeypatch):
    monkeypatch.setattr(TrainingMixture, "compile_parts", lambda self: None)  # a compiler may not be there
    make_model(work, ["--tokens=1024", *OPTIONS])
    model = moeviz.load_model(str(work / "model"))
    for text in TEXTS.values():
        assert model.tokenizer.decode(model.tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    trace = moeviz.trace(model, TEXTS["french"])
    assert trace.model.layers == (0,) and trace.model.num_experts == (8,)
    assert "".join(trace.tokens["text"][1:]).startswith("french: naïve")


def test_token_files_hold_two_per_cent_of_the_documents_out(work, tmp_path):
    train_tokenizer(work / "corpus", tmp_path)
    tokenise(work / "corpus", tmp_path / "tokenizer.json", tmp_path)
    held_out, trained = (np.fromfile(tmp_path / f"french.{split}.bin", np.uint16) for split in ("held_out", "train"))
    beginnings = [int((ids == 1).sum()) for ids in (held_out, trained)]  # <s>
    assert 0 < beginnings[0] < 10 and sum(beginnings) == 120


@pytest.mark.parametrize("experts", payoff.EXPERTS)
def test_models_of_the_payoff_have_the_stated_size_and_compute_the_same(experts):
    shape = shape_from(parse(["tokens", "out", *PROXY, *payoff.options(experts), "--tokens=1"]))
    weights = TrainingMixture(shape).named_parameters()
    found = payoff.sizes(shape)
    assert found["parameters"] == sum(weight.numel() for name, weight in weights if not name.endswith("router"))
    dense = payoff.sizes(shape_from(parse(["tokens", "out", *PROXY, *payoff.options(1), "--tokens=1"])))
    assert found["active"] == dense["active"] == dense["parameters"]
