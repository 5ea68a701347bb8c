"""The models that are moeviz's own: the one that ships, and its siblings, which come in a distribution of their own.

The siblings' weights are folders of the package `moeviz_models`, be it installed or in `models/` of a checkout. Nothing
is loaded here.
"""

import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from moeviz.embedded import embedded_path
from moeviz.errors import ModelNotFound

NATURAL, FINE = "embedded-natural", "embedded-fine"  # as EMBEDDED: the names by which moeviz opens them
PACKAGE, DISTRIBUTION = "moeviz_models", "moeviz-models"
CHECKOUT = Path(__file__).parents[2] / "models" / PACKAGE
WEIGHTS = "model.safetensors"
POINTER = b"version https://git-lfs"  # how the file begins that git leaves where git-lfs did not fetch the real one
GET = f"Install the wheel of {DISTRIBUTION}, which `make models` builds in a checkout of moeviz."


@dataclass(frozen=True, slots=True)
class OwnModel:
    """One of moeviz's own models: its description for readers, and where it is."""

    who: str  # in the middle of a sentence
    trained_for: str  # one sentence
    balance: str  # what its training kept the experts' load even with
    tokens: int  # that it was trained on
    bits_per_byte: float  # on the evaluation set, mean of kinds of text, as the model card has it
    folder: str  # in `moeviz_models`; "" is the one that ships


_FACTS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
OWN_MODELS = {name: OwnModel(**facts) for name, facts in _FACTS.items()}  # by name, installed or not


def installed() -> tuple[str, ...]:
    """List the names of moeviz's own models that are here with their weights; the one that ships first."""
    return tuple(name for name in OWN_MODELS if why_not_here(name) is None)


def model_folder(name: str) -> Path:
    """Return the folder that transformers loads a model from. Raises `ModelNotFound` if it is not here, or damaged."""
    if (why := why_not_here(name)) is not None:
        raise ModelNotFound(why)
    folder = found_folder(name)
    assert folder is not None, "an installed model has a folder"
    return folder


def why_not_here(name: str) -> str | None:
    """Return why one of these models cannot be loaded, and what to do; None if it can."""
    folder = found_folder(name)
    if folder is None:
        return f"{name!r}, {OWN_MODELS[name].who}, is not installed here. {GET}"
    try:
        with (folder / WEIGHTS).open("rb") as file:
            begins = file.read(len(POINTER))
    except OSError as error:
        whole = "moeviz" if folder == embedded_path() else DISTRIBUTION
        return f"The weights of {name!r} cannot be read: {WEIGHTS}, {error.strerror}. Install {whole} again."
    if begins == POINTER:
        return f"The {WEIGHTS} of {name!r} is a pointer of git-lfs instead of the weights. Fetch them: git lfs pull."
    return None


def found_folder(name: str) -> Path | None:
    """Return the folder of one of these models, whatever is in it; None if it is not installed."""
    own = OWN_MODELS[name]
    if not own.folder:
        return embedded_path()
    spec = find_spec(PACKAGE)
    places = [CHECKOUT, *map(Path, (spec and spec.submodule_search_locations) or ())]
    return next((place / own.folder for place in places if (place / own.folder).is_dir()), None)
