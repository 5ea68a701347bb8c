"""Facts about the model of a trace, which the arrays cannot hold. Inert, like the trace."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from moeviz.errors import InvalidTrace
from moeviz.text import no_layer

ScoreFunction = Literal["softmax", "sigmoid", "sqrt_softplus", "unknown"]
SlotOrder = Literal["weight", "unknown"]


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """The number of parameters of a model, by what they do. The parts sum to `total`; tied weights count once.

    Counted by `moeviz.parameters`, which also works out active and touched parameters.

    >>> import moeviz
    >>> counts = moeviz.load_model().info.parameters
    >>> counts.total, counts.routed_experts
    (12729600, 9437184)
    """

    input_embedding: int
    output_embedding: int  # 0 where it is tied to the input embedding
    attention: int
    routers: int
    routed_experts: int  # all of them, chosen or not
    shared_experts: int  # in the MoE layers, and run for every token
    dense_layers: int  # feed-forward blocks of layers without experts
    other: int  # norms, and what fits nowhere else
    per_expert: tuple[int, ...]  # size of one routed expert, one number per MoE layer

    @property
    def total(self) -> int:
        """All parameters."""
        return sum(getattr(self, part) for part in PARTS)

    @property
    def tied(self) -> bool:
        """True if one matrix serves as input and output embedding."""
        return self.output_embedding == 0


PARTS = tuple(name for name, kind in ParameterCounts.__annotations__.items() if kind is int)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts about the model that the arrays cannot hold.

    >>> import moeviz
    >>> info = moeviz.load_model().info
    >>> info.layers, info.num_experts[0], info.top_k, info.num_layers
    ((0, 1, 2, 3, 4, 5), 8, 2, 6)
    """

    name: str  # "allenai/OLMoE-1B-7B-0924"
    backend: str  # who recorded: "transformers", "vllm", "mixture", "sample"; "file" where a file does not say
    layers: tuple[int, ...]  # the model's own index of each of the L MoE layers; dense layers are absent
    num_experts: tuple[int, ...]  # routed experts per MoE layer, L numbers
    top_k: int  # K
    score_function: ScoreFunction = "unknown"  # turns logits into probabilities
    num_layers: int | None = None  # all layers of the model, dense ones too
    dtype: str | None = None  # of the weights while the trace was recorded: "float32", "bfloat16"
    revision: str | None = None  # commit of the checkpoint, if it has one
    parameters: ParameterCounts | None = None
    layer_kind: str = "layer"  # what one step of axis L is; a time step, a level or an epoch in mixtures of other kinds
    item_kind: str = (
        "token"  # what is routed, in the singular; a digit, a vowel, an utterance in mixtures of other kinds
    )
    label_kind: str = "kind of text"  # what `tokens.label` says of it
    site: str = ""  # which routers, in a model with several kinds: "encoder", "decoder", "attention" …
    caution: str = ""  # what a person must know before trusting the trace
    # Code that ran the routers: "hooks" (their own code, recorded), "kernels (Triton)" or "kernels (plain torch)"
    # (ours),
    # or "kernels (Triton, 4 of 6 routers)" where those ran only some; "hooks (…)" gives the reason where kernels were
    # wanted and could not. "" where the source does not say.
    recorded_by: str = ""
    # A check of the recording against what the experts of this model received, and on how many tokens; or why not. ""
    # if the source does not say.
    witness: str = ""
    hash_layers: tuple[int, ...] = ()  # those of `layers` that look experts up by token id: no training balances them
    zero_experts: int = 0  # the last `zero_experts` ids compute nothing: the token skips, or passes as it is
    # In which order a token's experts stand: the highest weight first, or as the source had them, which may be any.
    slot_order: SlotOrder = "weight"
    # The way tokens were generated: "greedy", "sampled at temperature 0.8, seed 3", "beam search with 4 beams", "the
    # checkpoint's own settings: …"; and where there are fewer than were asked for, "; ended after 7 of 20 tokens: …".
    # "" where none were, or the source does not say.
    decoding: str = ""

    def with_layers(self, layers: Collection[int]) -> tuple["ModelInfo", list[int]]:
        """The facts about some layers only, and which of the L these are. Raises `InvalidTrace` for one not there.

        Parameters are counted for whole models, so these facts have none.
        """
        wanted = set(layers)
        if missing := wanted - set(self.layers):
            raise InvalidTrace(no_layer(self.name, min(missing), self.layers))
        kept = [row for row, layer in enumerate(self.layers) if layer in wanted]
        layers, num_experts = (tuple(of_all[row] for row in kept) for of_all in (self.layers, self.num_experts))
        hashed = tuple(layer for layer in self.hash_layers if layer in wanted)
        return replace(self, parameters=None, layers=layers, num_experts=num_experts, hash_layers=hashed), kept
