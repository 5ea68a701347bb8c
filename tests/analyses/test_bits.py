"""Bits for experts: rounding held against llama.cpp's rule, plans by hand, weights that come back, and an outlier."""

import copy
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from cut_models import TEXTS, loaded, strong
from tiny_models import CONFIGS

from moeviz.analyses.number_formats import FORMATS
from moeviz.analyses.precisions import GROUP, experts_rounded, rounded_in_groups
from moeviz.analyses.pruning.bits import UNITS, bits_sentences, bits_study
from moeviz.analyses.pruning.curve import as_read
from moeviz.analyses.what_if import next_token_logits
from moeviz.capture.routers.discovery import find_routers
from moeviz.capture.routers.geometry import expert_matrices
from moeviz.capture.run.prompts import prepare
from moeviz.capture.run.request import CaptureRequest
from moeviz.cli import bits as command
from moeviz.cli.main import main
from moeviz.errors import CaptureError, InvalidTrace, StopReading
from moeviz.examples.gguf import q4_0
from moeviz.formats import recipes as files
from moeviz.metrics.bits import RULES, mean_bits, plan_of_bits, unreached_sentence


def test_sixteen_codes_are_llama_cpps_q4_0_and_eleven_are_eleven():
    values = np.random.default_rng(0).normal(0, 0.02, (6, 64)).astype(np.float32)
    values[3] = 0
    wanted = FORMATS["Q4_0"].decode(q4_0(values)).reshape(values.shape)
    np.testing.assert_array_equal(rounded_in_groups(torch.from_numpy(values), 16).numpy(), wanted)
    eleven = rounded_in_groups(torch.from_numpy(values), 11).view(-1, GROUP)
    assert max(len(group.unique()) for group in eleven) <= 11
    assert (eleven.view(6, 64) - torch.from_numpy(values)).abs().max() < 0.55 * np.abs(values).max() / 5
    short = torch.from_numpy(values[:, :40])
    assert torch.equal(rounded_in_groups(short, 8)[:, :32], rounded_in_groups(short[:, :32], 8)), "the rest is apart"


def units(**columns) -> pd.DataFrame:
    plain = {"layer": 0, "weights": 100, "super": False, "tokens": 1, "kl_many": 0.0, "loss_few": 0.0, "loss_many": 0.0}
    return pd.DataFrame({"expert": range(len(columns["kl_few"])), **columns}).assign(
        **{name: value for name, value in plain.items() if name not in columns}
    )


def test_the_neediest_get_many_bits_until_the_budget_is_spent():
    frame = units(kl_few=[0.1, 0.4, 0.2, 0.3], tokens=[9, 1, 8, 2])
    assert [*plan_of_bits(frame, "kl", (3, 4), 3.5).values()] == [3, 4, 3, 4]
    assert [*plan_of_bits(frame, "frequency", (3, 4), 3.5).values()] == [4, 3, 4, 3]
    assert [*plan_of_bits(frame, "kl", (3, 4), 3.74).values()] == [3, 4, 3, 4], "a third one would be over the budget"
    assert [*plan_of_bits(frame, "kl", (4, 8), 4.0).values()] == [4] * 4
    plans = [plan_of_bits(frame, "random", (3, 4), 3.5, draw=draw) for draw in range(20)]
    assert len({(*plan.values(),) for plan in plans}) > 2 and all(mean_bits(frame, plan) == 3.5 for plan in plans)
    large = units(kl_few=[0.3, 0.2, 0.2], weights=[300, 100, 100])
    assert [*plan_of_bits(large, "kl", (3, 4), 3.4).values()] == [3, 4, 4], "what it saves for each weight"


def test_super_experts_come_first_and_an_impossible_budget_is_refused():
    frame = units(kl_few=[0.0] + [0.1] * 9, super=[True] + [False] * 9)
    plan = plan_of_bits(frame, "kl", (3, 4), 3.7)
    assert [*plan.values()] == [8, 4, 4, 3, 3, 3, 3, 3, 3, 3] and mean_bits(frame, plan) == pytest.approx(3.7)
    with pytest.raises(CaptureError, match=r"1.*10 experts.*8 bits.*3\.500 bits"):
        plan_of_bits(frame, "kl", (3, 4), 3.4)
    layers = frame.assign(layer=range(10), expert=-1)
    assert [*plan_of_bits(layers, "kl", (3, 4), 3.1).values()] == [4] + [3] * 9, "a whole layer gets many bits, not 8"
    with pytest.raises(CaptureError, match=r"3 and 4 .*5"):
        plan_of_bits(frame, "kl", (3, 4), 5.0)
    with pytest.raises(CaptureError, match="'size'"):
        plan_of_bits(frame, "size", (3, 4), 3.9)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_each_alone_is_what_a_model_with_that_expert_rounded_loses_and_the_model_comes_back(name):
    model = strong(CONFIGS[name])
    before, run = copy.deepcopy(model), loaded(model)
    study = bits_study(run, TEXTS, draws=2, tokens=12)
    assert all(torch.equal(one, other) for one, other in zip(before.parameters(), model.parameters(), strict=True))
    assert set(study.plans["plan"]) == {"kl", "loss", "frequency", "random", "uniform", "few", "many"}
    reached = study.units[study.units["tokens"] > 0]
    assert (reached["kl_few"] > reached["kl_many"]).mean() > 0.9 and (reached["kl_many"] > 0).all()
    unreached = study.units[study.units["tokens"] == 0]
    assert not unreached[["loss_few", "kl_few", "kl_many"]].to_numpy().any() and (unreached["bits"] == 3).all()
    row = reached.sort_values("kl_few").iloc[-1]
    router = next(one for one in find_routers(before) if one.layer == row["layer"])
    (experts,) = router.experts.values()
    with torch.no_grad():
        for part, values in experts.named_parameters():
            if not part.endswith("bias"):
                own = values[int(row["expert"])]
                own.copy_(rounded_in_groups(own.T, 8).T if name == "gpt_oss" else rounded_in_groups(own, 8))
    losses = [sum_of_losses(loaded(of), study.calibrated) for of in (before, model)]
    assert row["loss_few"] == pytest.approx((losses[0][0] - losses[1][0]) / losses[1][1], abs=1e-6)


def sum_of_losses(model, texts) -> tuple[float, int]:
    total = count = 0
    for _, text in as_read(model, texts, 12):
        ids = model.tokenizer(text, return_tensors="pt")["input_ids"][0]
        logits = next_token_logits(prepare(model, CaptureRequest((text,))))
        total += float(torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="sum"))
        count += len(ids) - 1
    return total, count


def test_plans_of_some_texts_are_judged_on_others_next_to_fresh_ones():
    model = loaded(strong(CONFIGS["mixtral"]))
    of = {kind: [pair for pair in TEXTS if pair[0] == kind] for kind in ("French", "sums")}
    facts = {"draws": 2, "tokens": 8, "units": "layers"}
    seen = []
    found = bits_study(model, of["French"], judged_on=of["sums"], progress=lambda *at: seen.append(at), **facts)
    own = bits_study(model, of["sums"], **facts)
    assert seen[-1][0] == seen[-1][1] and [done for done, _ in seen] == [*range(1, len(seen) + 1)]
    costs, wanted = (study.plans.set_index("plan")["loss_increase"] for study in (found, own))
    for rule in RULES[:-1]:
        assert costs[f"fresh {rule}"] == pytest.approx(wanted[rule], abs=1e-6)
    assert costs["few"] == pytest.approx(wanted["few"], abs=1e-6) and "fresh kl" not in wanted

    def stop(done, _total):
        if done == seen[-1][0] - 1:
            raise StopReading

    stopped = bits_study(model, of["French"], judged_on=of["sums"], progress=stop, **facts)
    left = stopped.plans["plan"].isin(["few", "many"])  # the last two
    assert stopped.plans["loss"].isna().equals(left) and stopped.plans[~left].equals(found.plans[~left])
    assert len(bits_sentences(stopped)) == len(bits_sentences(found))
    stale = bits_sentences(found)[-1]
    assert (stale.name, stale["stale"], stale["fresh"]) == ("stale_plan", costs["kl"], costs["fresh kl"])
    assert stale["chance"] == pytest.approx(costs["random"]) and bits_sentences(own)[-1].name == "cost_of_bits"


def test_plans_of_one_checkpoint_are_judged_on_another_next_to_fresh_ones():
    model, changed = strong(CONFIGS["mixtral"]), strong(CONFIGS["mixtral"])
    with torch.no_grad():
        for values in changed.parameters():
            values.add_(torch.randn_like(values) * values.std() / 2)
    one, other = loaded(model, "one"), loaded(changed, "two")
    facts = {"draws": 2, "tokens": 8, "units": "layers"}
    studies = (bits_study(one, TEXTS, judge=other, **facts), bits_study(other, TEXTS, **facts))
    costs, wanted = (study.plans.set_index("plan")["loss_increase"] for study in studies)
    for plan in ("few", "many", "uniform"):
        assert costs[plan] == pytest.approx(wanted[plan], abs=1e-6)
    for rule in RULES[:-1]:
        assert costs[f"fresh {rule}"] == pytest.approx(wanted[rule], abs=1e-6)
    pd.testing.assert_frame_equal(studies[0].units, bits_study(one, TEXTS, **facts).units)
    with pytest.raises(CaptureError):
        bits_study(one, TEXTS, judge=loaded(strong(CONFIGS["deepseek_v3"])), progress=pytest.fail)


def test_an_error_half_way_gives_the_weights_back():
    model = strong(CONFIGS["mixtral"])
    before = copy.deepcopy(model.state_dict())
    matrices = {router.layer: expert_matrices(router) for router in find_routers(model)}

    def stop(_done, _total):
        if not all(torch.equal(values, before[name]) for name, values in model.state_dict().items()):
            raise KeyboardInterrupt  # while experts are rounded

    with pytest.raises(KeyboardInterrupt):
        bits_study(loaded(model), TEXTS, draws=1, tokens=8, progress=stop)
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
    with experts_rounded(matrices, {(0, 1): 8}):
        changed = [name for name, values in model.state_dict().items() if not torch.equal(values, before[name])]
    assert {re.sub(r".*layers\.", "", name) for name in changed} == {
        "0.mlp.experts.gate_up_proj",
        "0.mlp.experts.down_proj",
    }


def test_a_planted_outlier_is_protected_and_named():
    model, few = strong(CONFIGS["mixtral"]), TEXTS[:3]
    plain = bits_study(loaded(model), few, draws=2, tokens=8, units="layers")
    assert not plain.units["super"].any() and not plain.tokens["super"].any()
    (experts,) = find_routers(model)[1].experts.values()
    with torch.no_grad():
        experts.down_proj[5] *= 100
    study = bits_study(loaded(model), few, draws=2, tokens=8, budget=3.6)
    assert study.units.loc[study.units["super"], ["layer", "expert", "bits"]].to_numpy().tolist() == [[1, 5, 8]]
    claims = {claim.name: claim for claim in bits_sentences(study)}
    assert claims["super_experts"]["experts"] == ((1, 5),)
    assert (claims["texts_of_study"]["chose"], claims["texts_of_study"]["seed"]) == (len(study.calibrated), study.seed)
    rows = study.plans.set_index("plan")["loss_increase"]
    costs = claims["cost_of_bits"]
    assert (costs["cost"], costs["uniform"], costs["at_random"]) == (rows["kl"], rows["uniform"], rows["random"])
    assert study.plans["bits"][:4].max() <= 3.6 + 1e-9


def test_experts_without_tokens_are_named_and_a_long_list_is_cut():
    tokens = pd.DataFrame({"layer": [0] * 3 + [2], "expert": [0, 1, 2, 0], "tokens": [0, 99, 0, 7]})
    unreached = unreached_sentence(tokens)
    assert (unreached["experts"], unreached["none"], unreached["hardly"]) == (4, ((0, 0), (0, 2)), 1)
    many = pd.DataFrame({"layer": 0, "expert": range(100), "tokens": 0})
    assert len(unreached_sentence(many)["none"]) == 100 and " 99" not in unreached_sentence(many)
    assert unreached_sentence(tokens[1:2])["none"] == ()


def test_files_are_those_that_quantisers_read():
    by_layer = {(0, -1): 4, (3, -1): 3}
    assert files.to_llama_cpp(by_layer) == "blk\\.0\\.ffn_.*_exps=q4_K\nblk\\.3\\.ffn_.*_exps=q3_K\n"
    pattern = files.to_llama_cpp(by_layer).split("=")[0]
    assert re.search(pattern, "blk.0.ffn_gate_up_exps.weight") and not re.search(pattern, "blk.10.ffn_down_exps.weight")
    assert not re.search(pattern, "blk.0.ffn_down_shexp.weight")
    blocks = {0: "model.layers.0.mlp", 3: "model.layers.3.mlp"}
    recipe = json.loads(files.to_llm_compressor({(0, 0): 3, (0, 11): 4, (0, 2): 3, (3, -1): 4}, blocks))
    groups = recipe["quant_stage"]["quant_modifiers"]["QuantizationModifier"]["config_groups"]
    few, many = groups["experts_3_bits"], groups["experts_4_bits"]
    assert few["weights"]["num_bits"] == 3 and few["weights"]["group_size"] == GROUP == files.GROUP
    found = [
        [name for name in NAMES if any(re.match(target.removeprefix("re:"), name) for target in group["targets"])]
        for group in (few, many)
    ]
    assert found == [NAMES[:2], NAMES[2:4]]
    with pytest.raises(InvalidTrace, match="layers"):
        files.to_llama_cpp({(0, 0): 4})
    with pytest.raises(InvalidTrace, match=r"\b7\b"):
        files.to_llama_cpp({(0, -1): 7})


NAMES = [
    "model.layers.0.mlp.experts.0.gate_proj",
    "model.layers.0.mlp.experts.2.down_proj",
    "model.layers.0.mlp.experts.11.up_proj",
    "model.layers.3.mlp.experts.1.up_proj",
    "model.layers.0.mlp.experts.1.up_proj",
    "model.layers.0.mlp.shared_experts.up_proj",
    "model.layers.0.mlp.gate",
]


def test_the_command_prints_rows_and_writes_plans(tmp_path, capsys):
    assert (command.UNITS, (*command.RULES, "random")) == (UNITS, RULES)
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"label": label, "text": text}) for label, text in TEXTS))
    asked = ["bits", "embedded", str(texts), "--units", "layers", "--draws", "2", "--tokens", "16", "--json"]
    assert main([*asked, "-o", str(tmp_path / "types.txt"), "--form", "llama.cpp"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["layer"] for row in found["units"]] == [*range(6)] and len(found["plans"]) == 7
    assert (tmp_path / "types.txt").read_text() == files.to_llama_cpp(
        {(row["layer"], -1): row["bits"] for row in found["units"]}
    )
    assert any("3 texts" in each for each in found["findings"]) and any(
        "3.5 bits" in each for each in found["findings"]
    )
    for given, says in (
        (["embedded", "--form", "llama.cpp"], "Add --units layers"),
        (["some/model"], "'some/model' needs texts to read"),
        (["embedded", str(texts), "--bits", "4", "3"], "Bits are few and many, from 2 to 8"),
        (["embedded", "-o", "no/such/file"], "The folder of the file 'no/such/file'"),
    ):
        assert main(["bits", *given]) == 3
        assert says in capsys.readouterr().err
