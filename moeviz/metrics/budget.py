"""How large a table of numbers may become. A file of two rows may name expert 32,766; what follows from that is
refused before it is made."""

from moeviz.errors import InvalidTrace

MAX_CELLS = 2**21
CELLS_A_SLOT = 64  # a long trace may have more: real models have at most some 60 experts for each slot of a token


def check_cells(what: str, slots: int, most: int = MAX_CELLS, a_slot: int = CELLS_A_SLOT, /, **sizes: int) -> None:
    """Raise `InvalidTrace` if a table of these `sizes` (product: its cells) is larger than we make of so many slots.

    >>> check_cells("Load by label", 64, labels=3, experts=60_000)
    """
    cells, most = 1, max(most, a_slot * slots)
    for size in sizes.values():
        cells *= size
    if cells > most:
        product = " x ".join(f"{size:,} {name.replace('_', ' ')}" for name, size in sizes.items())
        raise InvalidTrace(
            f"{what} would be a table of {product}, {cells:,} cells in all, and at most {most:,} are made of a trace "
            "of this size. Choose fewer layers or tokens."
        )
