"""What looks like routing and is refused, each with its reason."""

from moeviz.errors import InvalidTrace
from moeviz.formats.importers.source import Source


def why_not(source: Source) -> str:
    """Why a file is not opened, as a sentence; "" for any other file."""
    data, first = source.data, source.first
    if data[:1] == b"\x80" and data[1:2] in b"\x02\x03\x04\x05" and data[1:2]:
        return (
            "The file is a pickle, which can run programs when it is opened, so it is not. Save arrays or tensors "
            "instead: .npz, .safetensors, or torch.save of tensors alone."
        )
    if b"blk." in data[:64] and not data.startswith(b"GGUF"):
        return (
            "The file is an importance matrix in the legacy format, which has no counts of experts. Make it again with "
            "`llama-imatrix --output-format gguf`."
        )
    if isinstance(first, dict) and first.keys() & {"physical_to_logical_map", "physical_expert_map"}:
        return "The file is a placement: it says where experts lie, and not how many tokens they got."
    return ""


def refuse(source: Source) -> None:
    """Raise `InvalidTrace` for a file that is not opened."""
    if why := why_not(source):
        raise InvalidTrace(why)
