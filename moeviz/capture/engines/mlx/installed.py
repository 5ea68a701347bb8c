"""MLX and mlx-lm, which are an extra: imported when something of theirs is first asked for."""

from importlib import import_module
from typing import Any

from moeviz.errors import CaptureError


class Later:
    """A module that is imported once something of it is used, so that ours can be imported without it."""

    def __init__(self, name: str) -> None:
        self.module = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what doctest and others ask of every object
            raise AttributeError(name)
        return getattr(import_module(self.module), name)


mx, nn = Later("mlx.core"), Later("mlx.nn")
trees = Later("mlx.utils")
lm, caches, switch_layers = (Later(f"mlx_lm.{part}") for part in ("utils", "models.cache", "models.switch_layers"))


def need_mlx() -> None:
    """Raise `CaptureError` if MLX cannot be imported, with what to do."""
    for later in (mx, nn, trees, lm, caches, switch_layers):
        try:
            import_module(later.module)
        except ImportError as error:
            raise CaptureError(
                f"An MLX model needs the packages mlx and mlx-lm, and this is missing: {error}. Install them with “pip "
                "install 'moeviz[mlx]'”."
            ) from error
