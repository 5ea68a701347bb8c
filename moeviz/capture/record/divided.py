"""Two routers in a layer that divide the tokens between them: Ernie 4.5 VL has one for text and one for images.

In the forward that reads a prompt with images, each router answers for its own tokens; later ones are text. Together
they are one router with the experts of both, those for images after those for text.
"""

from dataclasses import replace

from torch import Tensor
from torch.nn.functional import pad

from moeviz.capture.record.forwards import ENDED
from moeviz.capture.record.hooks import Recording, RouterOutputs
from moeviz.capture.run.prompts import Batch
from moeviz.errors import CaptureError

OF_IMAGES = "images"  # the site of the routers that text never reaches
KINDS = "moe_mm_token_type_ids"  # what tells the model which tokens are of images: 0 is text
REMARK = "Experts 0 to {} of each layer are those for text, and the rest those for images."


def is_divided(batch: Batch) -> bool:
    """Return True if two routers in a layer divide the tokens of this prompt."""
    return KINDS in batch.tensors and bool(batch.tensors[KINDS].any())


def with_images(text: Recording, images: Recording, batch: Batch) -> Recording:
    """Return one recording of both routers of each layer.

    Raises `CaptureError` if they did not answer for the tokens that the batch says.
    """
    of_images = batch.tensors[KINDS].flatten() != 0
    calls = images.forwards.calls
    first = calls[: calls.index(ENDED) + 1] if ENDED in calls else calls
    sizes = {len(given.experts[0].reshape(-1, given.experts[0].shape[-1])) for given in images.outputs if given.experts}
    if (
        len(first) != len(images.order) + 2
        or len(text.outputs) != len(images.outputs)
        or sizes != {int(of_images.sum())}
    ):
        raise CaptureError(
            f"The routers for images answered for {sorted(sizes)} tokens, and {int(of_images.sum())} are of images; "
            "moeviz cannot tell which is which."
        )
    pairs = zip(text.outputs, images.outputs, strict=True)
    return replace(text, outputs=[_joined(one, other, of_images) for one, other in pairs])


def _joined(text: RouterOutputs, images: RouterOutputs, of_images: Tensor) -> RouterOutputs:
    """Return the answers of a layer's two routers as those of one; only the first forward has images."""
    count, others = text.num_experts, images.num_experts

    def whole(part: Tensor, other: Tensor) -> Tensor:
        made = part.new_empty(len(of_images), part.shape[-1])
        made[~of_images], made[of_images] = (
            given.reshape(-1, given.shape[-1]).to(part.dtype) for given in (part, other)
        )
        return made

    experts = [whole(text.experts[0], images.experts[0] + count), *text.experts[1:]]
    weights = [whole(text.weights[0], images.weights[0]), *text.weights[1:]]
    logits = [pad(part, (0, others), value=float("-inf")) for part in text.logits]
    if logits:
        logits[0] = whole(logits[0], pad(images.logits[0], (count, 0), value=float("-inf")))
    return replace(text, experts=experts, weights=weights, logits=logits, num_experts=count + others)
