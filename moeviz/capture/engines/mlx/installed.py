"""Whether MLX and mlx-lm are there: they are an extra, imported when an MLX model is opened."""

from importlib import import_module

from moeviz.errors import CaptureError

NEEDED = ("mlx.core", "mlx.nn", "mlx_lm.utils", "mlx_lm.models.switch_layers", "mlx_lm.models.cache")


def need_mlx() -> None:
    """Raise `CaptureError` where MLX cannot be imported, with what to do."""
    for module in NEEDED:
        try:
            import_module(module)
        except ImportError as error:
            raise CaptureError(
                f"An MLX model needs the packages mlx and mlx-lm, and this is missing: {error}. Install them with “pip "
                "install 'moeviz[mlx]'”."
            ) from error
