"""The embedded model's siblings: named everywhere, found where they are, and one sentence where they are not.

Their weights need not be here: tiny random models of the same architectures stand for them.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from app_pages import first_page, sentences
from tiny_models import CONFIGS, SHAPE, tiny_model, tiny_tokenizer
from transformers import Glm4MoeConfig

import moeviz
from moeviz.capture.models.folder import weights_identity
from moeviz.cli.main import main
from moeviz.embedded import EMBEDDED, own_models
from moeviz.embedded.own_models import FINE, NATURAL, OWN_MODELS, PACKAGE, WEIGHTS, installed
from moeviz.errors import ModelNotFound
from moeviz_app import settings
from moeviz_app.jobs import model_catalog, model_service
from moeviz_app.jobs.run_request import usual_temperature

ROOT = Path(__file__).parents[2]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 25481856\n"
FINE_GRAINED = Glm4MoeConfig(
    **SHAPE,
    num_hidden_layers=2,
    head_dim=8,
    moe_intermediate_size=16,
    n_routed_experts=31,
    n_shared_experts=1,
    num_experts_per_tok=7,
    first_k_dense_replace=0,
)


@pytest.fixture
def not_installed(monkeypatch, tmp_path):
    """As in a checkout without the siblings' weights, whether they are in this one or not."""
    monkeypatch.setattr(own_models, "CHECKOUT", tmp_path / "none")
    monkeypatch.setattr(own_models, "PACKAGE", "moeviz_models_that_nobody_has")


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A package `moeviz_models` with a tiny model in each of its two folders."""
    package = tmp_path_factory.mktemp("installed") / PACKAGE
    for folder, config in (("natural", CONFIGS["mixtral"]), ("fine", FINE_GRAINED)):
        tiny_model(config).save_pretrained(package / folder)
        tiny_tokenizer().save_pretrained(package / folder)
    shutil.copy(ROOT / "models" / PACKAGE / "__init__.py", package)
    return package


@pytest.fixture
def siblings(made, not_installed, monkeypatch, tmp_path):
    """The same in `models/` of a checkout, to be damaged."""
    package = shutil.copytree(made, tmp_path / "models" / PACKAGE)
    monkeypatch.setattr(own_models, "CHECKOUT", package)
    return package


def test_each_has_a_name_a_sentence_and_a_folder_of_its_own():
    assert [*OWN_MODELS] == [EMBEDDED, NATURAL, FINE]
    assert len({own.folder for own in OWN_MODELS.values()}) == len({own.who for own in OWN_MODELS.values()}) == 3
    assert all(own.trained_for.endswith(".") and own.trained_for.count(". ") == 0 for own in OWN_MODELS.values())


@pytest.mark.usefixtures("not_installed")
@pytest.mark.parametrize("name", [NATURAL, FINE])
def test_what_is_not_installed_is_one_sentence_wherever_it_is_named(name, capsys):
    with pytest.raises(ModelNotFound, match=f"{name}.*moeviz-models"):
        moeviz.load_model(name)
    for command in (["trace", "Hello.", "--model", name], ["params", name], ["corpus", "--embedded", "--model", name]):
        assert main(command) == 3
        assert "is not installed here" in capsys.readouterr().err
    assert weights_identity(name) is None


@pytest.mark.usefixtures("not_installed")
def test_the_app_offers_what_is_here_and_leaves_out_what_is_not():
    assert installed() == (EMBEDDED,)
    assert settings.read_settings({}).models == (EMBEDDED,)
    assert settings.read_settings({"MOEVIZ_MODELS": "/m"}).models == ("/m",), "what a deployment lists counts"


@pytest.mark.usefixtures("siblings")
def test_what_is_in_the_checkout_is_opened_by_its_name():
    assert installed() == (EMBEDDED, NATURAL, FINE) == settings.read_settings({}).models
    natural, fine = (moeviz.trace(moeviz.load_model(name), "Il fait froid à Paris.") for name in (NATURAL, FINE))
    assert (natural.model.name, natural.experts.shape[2], set(natural.model.num_experts)) == (NATURAL, 2, {8})
    assert (fine.model.name, fine.experts.shape[2], set(fine.model.num_experts)) == (FINE, 7, {31})
    assert fine.model.score_function == "sigmoid" and fine.model.dtype == natural.model.dtype == "float32"
    assert natural.tokens.equals(fine.tokens), "one tokenizer"
    assert weights_identity(NATURAL) not in (None, weights_identity(FINE), weights_identity(EMBEDDED))


def test_what_is_installed_elsewhere_is_found_by_its_package(made, not_installed, monkeypatch):
    monkeypatch.setattr(own_models, "PACKAGE", PACKAGE)
    monkeypatch.syspath_prepend(made.parent)
    assert installed() == (EMBEDDED, NATURAL, FINE)
    assert own_models.model_folder(FINE) == made / "fine"


def test_nothing_is_imported_to_find_them(made):
    code = (
        "import sys; from moeviz.embedded.own_models import installed; print(*installed()); "
        f"assert not {{'torch', '{PACKAGE}'}} & sys.modules.keys()"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True, env={"PYTHONPATH": f"{made.parent}:{ROOT}"})
    assert done.stdout.split() == [EMBEDDED, NATURAL, FINE]


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (Path.unlink, "'embedded-fine'"),
        (lambda file: file.write_text(POINTER), "is a pointer of git-lfs instead of the weights.* git lfs pull"),
        (lambda file: file.write_bytes(file.read_bytes()[:1000]), "'embedded-fine'"),
    ],
    ids=["missing", "pointer", "cut"],
)
def test_damage_is_one_sentence(damage, sentence, siblings):
    damage(siblings / "fine" / WEIGHTS)
    with pytest.raises(ModelNotFound, match=sentence):
        moeviz.load_model(FINE)
    moeviz.load_model(NATURAL)  # the other is whole


def test_what_cannot_be_opened_is_not_offered(siblings):
    (siblings / "natural" / WEIGHTS).write_text(POINTER)
    (siblings / "fine" / WEIGHTS).unlink()
    assert settings.read_settings({}).models == (EMBEDDED,)


def test_the_first_page_says_what_each_was_trained_for(siblings, monkeypatch):
    monkeypatch.setattr(settings, "SETTINGS", settings.read_settings({"MOEVIZ_WARM_UP": "0"}))
    app = first_page()
    assert OWN_MODELS[EMBEDDED].trained_for in sentences(app)
    (choice,) = (box for box in app.selectbox if box.label.startswith("Model"))
    assert choice.options == [*OWN_MODELS]
    choice.set_value(FINE).run()
    assert not app.exception
    assert OWN_MODELS[FINE].trained_for in sentences(app) and OWN_MODELS[EMBEDDED].trained_for not in sentences(app)
    shape = "6 layers × 8 experts, 2 per token"
    assert any(shape in each.value for each in app.markdown), "of the trace on screen, not of the model chosen"


@pytest.mark.usefixtures("siblings")
def test_siblings_are_at_hand_and_write_as_the_embedded_model_does():
    assert model_service.at_hand(NATURAL, model_catalog.DEFAULT_LOAD) and not model_service.at_hand(
        "/m", model_catalog.DEFAULT_LOAD
    )
    assert usual_temperature(FINE) == usual_temperature(EMBEDDED) > usual_temperature("/m")


def test_a_distribution_without_weights_is_not_built(made, tmp_path):
    source = shutil.copytree(ROOT / "models", tmp_path / "source", ignore=shutil.ignore_patterns("natural", "fine"))
    code = "import runpy, setuptools; setuptools.setup = lambda **what: print(what); runpy.run_path('setup.py')"
    run = {"cwd": source, "capture_output": True, "text": True, "check": False}

    def build():
        return subprocess.run([sys.executable, "-c", code], **run)

    assert build().returncode == 1 and "natural has no model.safetensors" in build().stderr
    shutil.copytree(made, source / PACKAGE, dirs_exist_ok=True)
    assert build().returncode == 0, build().stderr
    (source / PACKAGE / "natural" / WEIGHTS).write_text(POINTER)
    assert "natural has a pointer of git-lfs" in build().stderr


def test_the_distribution_s_folders_are_those_of_the_table():
    text = (ROOT / "models" / "setup.py").read_text()
    folders = [own.folder for own in OWN_MODELS.values() if own.folder]
    assert f"FOLDERS = {tuple(folders)}".replace("'", '"') in text


@pytest.mark.package
def test_the_wheel_of_the_siblings_holds_what_they_are_loaded_from(made, tmp_path):
    from zipfile import ZipFile

    source = shutil.copytree(ROOT / "models", tmp_path / "source", ignore=shutil.ignore_patterns("natural", "fine"))
    shutil.copytree(made, source / PACKAGE, dirs_exist_ok=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {path.relative_to(made.parent).as_posix() for path in made.rglob("*") if path.is_file()}
    assert names == {name for name in files if "__pycache__" not in name}
    assert json.loads(ZipFile(wheel).read(f"{PACKAGE}/fine/config.json"))["n_routed_experts"] == 31
