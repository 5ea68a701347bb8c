"""MLX: what moeviz hears of a model in mlx-lm is what transformers decides with the same weights."""

import threading
from contextlib import closing

import numpy as np
import pytest
from mlx_models import FAMILIES, model_of, write_folder, write_quantised
from same_outputs import assert_same_outputs
from tiny_models import TEMPLATE, tiny_tokenizer, tokenizer_with
from waiting import SECONDS

import moeviz
from moeviz.capture.engines.mlx import model as mlx_model
from moeviz.capture.models.parameters import describe
from moeviz.capture.opening import known_before, model_facts
from moeviz.embedded import EMBEDDED
from moeviz.errors import CaptureError, InvalidPrompt

mx = pytest.importorskip("mlx.core", reason="MLX is not installed (make test-mlx)")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (make test-mlx)")
pytestmark = pytest.mark.mlx
PROMPT = "Il fait froid à Paris. def f(x): return x + 12 🙂"
PROMPTS = [PROMPT, "12 + 7 = 19", "The cat sat on the mat."]
HOT = moeviz.Sampling(temperature=1.0, top_k=50, top_p=0.95, seed=3)
ROUNDING = 1e-4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each family, written when it is asked for."""
    made = {}

    def folder(family):
        if family not in made:
            made[family] = write_folder(tmp_path_factory.mktemp(family), model_of(family))
        return made[family]

    return folder


@pytest.fixture(scope="module")
def opened(folders):
    made = {}

    def model(family):
        if family not in made:
            made[family] = moeviz.load_model(str(folders(family)), backend="mlx")
        return made[family]

    return model


@pytest.fixture
def model(opened):
    return opened(EMBEDDED)


def by_transformers(family, prompts=PROMPT, **how):
    return moeviz.trace(model_of(family), prompts, tokenizer=tiny_tokenizer(), kernels=False, **how)


def equal(ours, theirs) -> tuple[int, int]:
    assert ours.tokens.equals(theirs.tokens)
    return int((ours.experts == theirs.experts).sum()), theirs.experts.size


@pytest.mark.parametrize("family", [EMBEDDED, *FAMILIES])
def test_ids_weights_logits_and_outputs_of_prompt_and_generated_tokens_are_those_of_transformers(opened, family):
    how = {"max_new_tokens": 8, "outputs": True}
    ours, theirs = moeviz.trace(opened(family), PROMPT, **how), by_transformers(family, **how)
    same, of = equal(ours, theirs)
    assert same == of
    assert np.abs(ours.weights - theirs.weights).max() < ROUNDING
    if family == "deepseek_v2":  # its gate shows none
        assert ours.logits is None and ours.model.score_function == "unknown"
    else:
        assert np.abs(ours.logits - theirs.logits).max() < ROUNDING
        assert ours.model.score_function == theirs.model.score_function
    assert set(ours.tokens["phase"]) == {"prompt", "generated"}
    assert_same_outputs(ours.outputs, theirs.outputs, ROUNDING)
    assert moeviz.trace(opened(family), PROMPT).outputs is None


@pytest.mark.parametrize("family", [EMBEDDED, *FAMILIES])
def test_the_facts_are_those_of_transformers(opened, family):
    ours, theirs = opened(family).info, describe(model_of(family), "")
    for fact in ("layers", "num_experts", "top_k", "num_layers", "dtype", "parameters"):
        assert getattr(ours, fact) == getattr(theirs, fact), fact
    assert ours.backend == "mlx"


def test_facts_are_known_before_any_weight_is_read(opened, folders):
    name = str(folders("olmoe"))
    known = known_before(name, "mlx")
    weights = (folders("olmoe") / "model.safetensors").stat().st_size
    assert known.info == opened("olmoe").info == model_facts(name, "mlx")
    assert weights < known.memory < 1.2 * weights
    assert known.max_tokens == opened("olmoe").max_tokens
    assert known.identity


@pytest.mark.parametrize("sampling", [None, HOT])
def test_several_prompts_are_drawn_as_transformers_draws_them(model, sampling):
    how = {"max_new_tokens": 6, "sampling": sampling}
    ours, theirs = moeviz.trace(model, PROMPTS, **how), by_transformers(EMBEDDED, PROMPTS, **how)
    same, of = equal(ours, theirs)
    assert same == of
    assert ours.model.decoding == theirs.model.decoding


@pytest.mark.parametrize("family", [EMBEDDED, "gpt_oss", "deepseek_v3"])
def test_a_prompt_read_in_pieces_is_the_same(opened, monkeypatch, family):
    prompt = PROMPT * 2
    whole = moeviz.trace(opened(family), prompt)
    monkeypatch.setattr(mlx_model, "STEP", 7)
    pieces = moeviz.trace(opened(family), prompt)
    assert (pieces.experts == whole.experts).all()
    assert np.abs(pieces.weights - whole.weights).max() < ROUNDING


def test_a_long_prompt_beyond_a_step_is_read_whole(opened):
    """More tokens than are sorted by expert, and than are read at once, in mlx-lm."""
    model = opened(EMBEDDED)
    prompt = " ".join(f"{number} cats" for number in range(160))
    ours = moeviz.trace(model, prompt)
    same, of = equal(ours, by_transformers(EMBEDDED, prompt))
    assert of > 4000
    assert same == of


def test_an_end_of_text_ends_a_sequence_and_the_others_go_on(folders):
    model = moeviz.load_model(str(folders(EMBEDDED)), backend="mlx")
    free = moeviz.trace(model, PROMPTS, max_new_tokens=8)
    first = free.tokens[(free.tokens["sequence"] == 0) & (free.tokens["phase"] == "generated")]
    stop = int(first["token_id"].iloc[2])
    object.__setattr__(model._opened, "stops", frozenset({stop}))
    stopped = moeviz.trace(model, PROMPTS, max_new_tokens=8)
    assert stop not in set(stopped.tokens.loc[stopped.tokens["phase"] == "generated", "token_id"])
    lengths = stopped.tokens.groupby("sequence").size()
    assert lengths[0] < free.tokens.groupby("sequence").size()[0]
    assert lengths[1] == free.tokens.groupby("sequence").size()[1]
    after = int((stopped.tokens.loc[stopped.tokens["sequence"] == 0, "phase"] == "generated").sum())
    assert f"1 of {len(PROMPTS)} sequences ended after {after} of 8 tokens" in stopped.model.decoding


def test_a_stream_grows_and_ends_with_the_trace(model):
    *growing, last = moeviz.stream(model, PROMPTS, max_new_tokens=4, sampling=HOT)
    assert [len(part.tokens) - len(growing[0].tokens) for part in (*growing, last)] == [0, 0, 3, 6, 9]
    assert last.equals(moeviz.trace(model, PROMPTS, max_new_tokens=4, sampling=HOT))


def test_a_stream_that_is_left_runs_no_further_and_leaves_nothing(model, monkeypatch):
    before = moeviz.trace(model, PROMPT, max_new_tokens=3)
    fed = []
    own = mlx_model._Sequence.feed
    monkeypatch.setattr(mlx_model._Sequence, "feed", lambda self, *how: (fed.append(how[1]), own(self, *how))[1])
    with closing(moeviz.stream(model, PROMPT, max_new_tokens=50)) as growing:
        for part in growing:
            if (part.tokens["phase"] == "generated").sum() == 2:
                break
    assert len(fed) == 3  # the prompt and two tokens
    assert moeviz.trace(model, PROMPT, max_new_tokens=3).equals(before)


def test_runs_in_several_threads_give_what_each_gives_alone(model):
    alone = [moeviz.trace(model, prompt, max_new_tokens=5) for prompt in PROMPTS]
    found = [None] * len(PROMPTS)

    def work(number):
        found[number] = moeviz.trace(model, PROMPTS[number], max_new_tokens=5)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(PROMPTS))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert all(mine.equals(other) for mine, other in zip(found, alone, strict=True))


def test_a_stream_is_taken_on_by_another_thread(model):
    whole, found = moeviz.trace(model, PROMPT, max_new_tokens=3), []
    growing = moeviz.stream(model, PROMPT, max_new_tokens=3)
    for _ in range(4):
        thread = threading.Thread(daemon=True, target=lambda: found.append(next(growing)))
        thread.start()
        thread.join(SECONDS)
    assert found[-1].equals(whole)


def test_models_of_others_keep_their_classes_and_their_answers(folders):
    """What listens is in our model alone: an mlx-lm model of somebody else runs as it was written."""
    from mlx_lm import utils
    from mlx_lm.models import mixtral, switch_layers

    classes = (mixtral.MixtralSparseMoeBlock, switch_layers.SwitchGLU, mixtral.nn.Linear)
    written = [kind.__call__ for kind in classes]
    theirs, _ = utils.load_model(folders(EMBEDDED))
    tokens = mx.array([[5, 9, 200]])
    before = np.array(theirs(tokens))
    model = moeviz.load_model(str(folders(EMBEDDED)), backend="mlx")
    with closing(moeviz.stream(model, PROMPT, max_new_tokens=3)) as growing:
        next(growing)
        assert (np.array(theirs(tokens)) == before).all()
        assert type(theirs.layers[0].block_sparse_moe) is mixtral.MixtralSparseMoeBlock
    assert [kind.__call__ for kind in classes] == written
    assert not model._opened.hooks.recorded


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_weights_count_what_is_packed_and_route_as_they_are(folders, tmp_path, bits):
    model = moeviz.load_model(str(write_quantised(folders(EMBEDDED), tmp_path / "q", bits)))  # known by its config
    exact = by_transformers(EMBEDDED, PROMPTS)
    assert model.info.dtype.startswith(f"{bits} bit, groups of 64")
    assert model.info.parameters == exact.model.parameters
    found = moeviz.trace(model, PROMPTS)
    same, of = equal(found, exact)
    assert {8: 0.98, 4: 0.7}[bits] * of < same  # the figures are in the documentation
    assert np.abs(found.weights.sum(axis=-1) - 1).max() < ROUNDING
    if bits == 4:
        assert same < of


def test_bfloat16_runs_where_it_is_packed_and_elsewhere_one_sentence_says_what_a_cpu_needs(tmp_path):
    folder = write_folder(tmp_path / "b", model_of(EMBEDDED).bfloat16())
    packed = moeviz.load_model(str(write_quantised(folder, tmp_path / "q", 8)))
    same, of = equal(moeviz.trace(packed, PROMPT), by_transformers(EMBEDDED))
    assert 0.9 * of < same
    if mx.default_device() == mx.cpu:
        with pytest.raises(CaptureError, match=r"CPU.*float32"):
            moeviz.load_model(str(folder), backend="mlx")
    model = moeviz.load_model(str(folder), backend="mlx", dtype="float32")
    assert model.info.dtype == "float32"
    same, of = equal(moeviz.trace(model, PROMPT), by_transformers(EMBEDDED))
    assert 0.9 * of < same  # the weights were rounded


def test_logits_can_be_left_out(model):
    trace = moeviz.trace(model, PROMPT, keep_logits=False)
    assert trace.logits is None
    assert (trace.experts == moeviz.trace(model, PROMPT).experts).all()


def test_a_chat_is_written_by_the_tokenizer_s_template(tmp_path):
    folder = write_folder(tmp_path, model_of("olmoe"), tokenizer_with(TEMPLATE))
    model = moeviz.load_model(str(folder), backend="mlx")
    how = {"chat": True, "system": "Be brief."}
    ours = moeviz.trace(model, "One", **how)
    theirs = moeviz.trace(model_of("olmoe"), "One", tokenizer=tokenizer_with(TEMPLATE), kernels=False, **how)
    assert equal(ours, theirs) == (ours.experts.size, ours.experts.size)
    assert model.chats
    assert ours.tokens.equals(theirs.tokens) and ours.in_segment("turn").sum() > 2


def test_a_prompt_that_does_not_fit_is_refused_before_it_is_read(opened):
    model = opened("olmoe")
    assert model.max_tokens == 128
    with pytest.raises(InvalidPrompt, match="128"):
        moeviz.trace(model, "word " * 200)


def test_a_corpus_has_its_labels_and_a_long_text_is_cut(opened):
    model = opened("olmoe")
    long = moeviz.trace_corpus(model, [("long", "word " * 300)])
    assert long.tokens["sequence"].nunique() > 2
    trace = moeviz.trace_corpus(model, [("a", PROMPTS[0]), ("b", PROMPTS[1])])
    assert set(trace.tokens["label"]) == {"a", "b"}


def test_a_closed_model_says_so_and_a_run_that_goes_on_ends_as_it_would(folders):
    model = moeviz.load_model(str(folders("olmoe")), backend="mlx")
    whole = moeviz.trace(model, PROMPT, max_new_tokens=3)
    growing = moeviz.stream(model, PROMPT, max_new_tokens=3)
    next(growing)
    model.close()
    model.close()
    *_, last = growing
    assert last.equals(whole)
    with pytest.raises(CaptureError, match="closed"):
        moeviz.trace(model, PROMPT)
