"""The decisions of the routers in a graph, copied while llama.cpp computes it, and put in order.

llama.cpp asks of every tensor that it is about to compute whether it is wanted, by name, and shows those that are.
All of its mixtures of experts are built by one function of its source, `build_moe_ffn`, which gives these names. A
tensor has one name, the last it was given.

    ffn_moe_logits-N           router output of layer N, (T, E); ffn_moe_logits_biased-N where the router has a bias
    ffn_moe_probs-N            its scores, made by the score function. Routers that take the softmax of only the chosen
                               logits have their logits here
    ffn_moe_topk-N             expert ids (T, K), a view of a sorted list of E
    ffn_moe_weights-N          and then _softmax, _norm, _scaled, as far as the layer has them: the last is what the
                               experts' outputs are multiplied by
    ffn_moe_down-N             what each expert puts out (T, K, D); ffn_moe_down_biased-N where experts have biases
    ffn_moe_out-N              the weighted sum of these (T, D)
    l_out-N                    the residual stream behind layer N, which the next one reads; the first reads inp_scaled,
                               or embd
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moeviz.capture.engines.decoding_loop import add_up, figures_of, outputs_of
from moeviz.capture.engines.llama_cpp.library import F16, F32, I32, Library
from moeviz.errors import CaptureError
from moeviz.expert_outputs import ExpertOutputs
from moeviz.model_info import ScoreFunction
from moeviz.routing_trace import NO_EXPERT, pad_layers

LOGITS = (b"ffn_moe_logits", b"ffn_moe_logits_biased")
WEIGHTS = (b"ffn_moe_weights", b"ffn_moe_weights_softmax", b"ffn_moe_weights_norm", b"ffn_moe_weights_scaled")
LATE = b"ffn_moe_weights_softmax"  # if it is there, the score function comes after the choice
TOPK, PROBS = b"ffn_moe_topk", b"ffn_moe_probs"
DOWN, OUT = (b"ffn_moe_down", b"ffn_moe_down_biased"), b"ffn_moe_out"
READ, LAYER = (b"embd", b"inp_embd", b"inp_scaled"), b"l_out"  # the residual stream before and behind layers
SCORES: dict[str, ScoreFunction] = {"SOFT_MAX": "softmax", "SIGMOID": "sigmoid", "SQRT": "sqrt_softplus"}
NUMPY = {F32: np.float32, F16: np.float16, I32: np.int32}
Piece = tuple[bytes, int]  # a name, and a layer


@dataclass(slots=True)
class ShownOutputs:
    """Figures of experts' outputs: of each layer those of one micro-batch after another."""

    figures: dict[int, list[np.ndarray]] = field(default_factory=dict)  # (T, K, FIGURES)
    stream: bool = True  # whether all layers showed the residual stream that they read
    _streams: dict[int, np.ndarray] = field(default_factory=dict)  # by the layer that reads it
    _outputs: dict[int, np.ndarray] = field(default_factory=dict)

    def take(self, piece: Piece, values: np.ndarray, weights: dict[Piece, list[np.ndarray]]) -> None:
        """Take what llama.cpp shows: streams and outputs until their sum comes, and then only their figures."""
        stem, layer = piece
        if stem in DOWN:
            self._outputs[layer] = values.reshape(-1, *values.shape[-2:])
        elif stem != OUT:
            self._streams[layer + 1] = values.reshape(-1, values.shape[-1])
        else:
            self._sum_up(layer, values.reshape(-1, values.shape[-1]), weights)

    def _sum_up(self, layer: int, whole: np.ndarray, weights: dict[Piece, list[np.ndarray]]) -> None:
        outputs, stream = self._outputs.pop(layer, None), self._streams.pop(layer, None)
        named = [stem for stem in WEIGHTS if (stem, layer) in weights]
        factors = weights[named[-1], layer][-1].astype(np.float32) if named else None
        if outputs is None or factors is None or not add_up(outputs, factors.reshape(outputs.shape[:2]), whole):
            raise CaptureError(
                f"In layer {layer} llama.cpp does not add up experts' outputs, each with its weight, under the names "
                "that moeviz knows, so it cannot tell them apart. Leave outputs out, or load the transformers "
                "checkpoint."
            )
        if stream is not None and stream.shape != whole.shape:
            stream = None
        self.stream &= stream is not None
        self.figures.setdefault(layer, []).append(figures_of(outputs, whole, stream))


@dataclass(slots=True, eq=False)
class CallbackRecording:
    """A recording by llama.cpp's eval callback: by name and layer, the rows of one micro-batch after another."""

    library: Library
    keep_logits: bool
    shown: ShownOutputs | None = None  # where experts' outputs are wanted
    pieces: dict[Piece, list[np.ndarray]] = field(default_factory=dict)
    scores: dict[int, ScoreFunction] = field(default_factory=dict)
    error: Exception | None = None  # cannot cross C: kept, and raised after the graph
    callback: Any = None  # must live as long as what calls it
    _wanted: dict[bytes, Piece | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.callback = self.library.ffi.callback("ggml_backend_sched_eval_callback", self._make_callback())

    def _make_callback(self) -> Any:
        """Make the function that llama.cpp calls for every tensor of its graphs: so it does little."""
        ffi, wanted = self.library.ggml_ffi, self._wanted
        kind, cast, text = ffi.typeof("struct ggml_tensor *"), ffi.cast, ffi.string

        def heard(address: Any, ask: bool, _: Any) -> bool:
            tensor = cast(kind, address)
            name = text(tensor.name)
            try:
                if not ask:
                    self._copy(wanted[name], tensor)
                    return True
                if name not in wanted:
                    wanted[name] = self._piece(name)
                piece = wanted[name]
                return piece is not None and self._is_copied(piece, tensor)
            except Exception as error:
                self.error = self.error or error
                return True

        return heard

    def _piece(self, name: bytes) -> Piece | None:
        """Recognise a router's tensor by its name; None for any other."""
        stem, _, layer = name.partition(b"-")
        wanted = stem in (TOPK, PROBS, *WEIGHTS) or (stem in LOGITS and self.keep_logits)
        if self.shown is not None:
            wanted |= stem in (*DOWN, OUT, LAYER)
            if name in READ:
                return name, -1
        return (stem, int(layer)) if wanted and layer.isdigit() else None

    def _is_copied(self, piece: Piece, tensor: Any) -> bool:
        """Return whether a tensor is copied. Scores are needed only for their function; without one they are logits."""
        stem, layer = piece
        if stem != PROBS:
            return True
        made_by = self.library.ggml_ffi.string(self.library.ggml.ggml_op_desc(tensor)).decode()
        if made_by in SCORES:
            self.scores[layer] = SCORES[made_by]
        return made_by not in SCORES and self.keep_logits

    def _copy(self, piece: Piece | None, tensor: Any) -> None:
        """Copy its rows. It may be a view, with holes: the bytes between first and last value are copied, then read."""
        ffi, ggml = self.library.ggml_ffi, self.library.ggml
        if piece is None or not (size := ggml.ggml_nbytes(tensor)):
            return
        if tensor.type not in NUMPY:
            raise CaptureError(f"llama.cpp shows {piece[0].decode()} in a type that moeviz does not read.")
        span = np.empty(size, np.uint8)
        ggml.ggml_backend_tensor_get(tensor, ffi.from_buffer(span), 0, size)
        # All four axes: which of them are 1 depends on the number of tokens, so that no rank can be guessed from them.
        shape, strides = list(tensor.ne)[::-1], list(tensor.nb)[::-1]
        values = np.lib.stride_tricks.as_strided(span.view(NUMPY[tensor.type]), shape, strides)
        if self.shown is not None and piece[0] in (*DOWN, OUT, LAYER, *READ):
            self.shown.take(piece, values.copy(), self.pieces)
        else:
            self.pieces.setdefault(piece, []).append(values.copy())

    def check(self, rows: int) -> None:
        """Raise what went wrong in a callback; and `CaptureError` unless each layer routed `rows` rows once."""
        if self.error is not None:
            raise self.error
        layers = self.layers()
        if not layers:
            raise CaptureError(
                "llama.cpp ran this model, and none of its routers was found: its graph has other names than those "
                "that moeviz knows. Use its transformers checkpoint."
            )
        for layer in layers:
            if (heard := sum(part.size // part.shape[-1] for part in self.pieces[TOPK, layer])) != rows:
                raise CaptureError(
                    f"llama.cpp routed {heard:,} rows in layer {layer}, where the model read {rows:,} tokens: a layer "
                    "that calls its experts more than once, or not for every token. Whose routing is whose cannot be "
                    "told."
                )

    def layers(self) -> list[int]:
        """Return the model's own index of each layer that chose experts."""
        return sorted(layer for stem, layer in self.pieces if stem == TOPK)

    def routed(self, layer: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Ids (T, K), weights (T, K) and logits (T, E) of the first `rows` rows; no logits if not recorded."""
        ids = self._last((TOPK,), layer, rows)
        names = (PROBS,) if (LATE, layer) in self.pieces and (PROBS, layer) in self.pieces else LOGITS
        if ids is None or (weights := self._last(WEIGHTS, layer, rows, ids.shape[1])) is None:
            raise CaptureError(f"llama.cpp named no weights in layer {layer}, so moeviz cannot say how experts count.")
        return ids, weights.astype(np.float32), self._last(names, layer, rows)

    def _last(self, stems: tuple[bytes, ...], layer: int, rows: int, width: int | None = None) -> np.ndarray | None:
        """Return the rows of the last of these names in the layer. Weights are (K, T) or (1, K, T): `width` is K."""
        there = [stem for stem in stems if (stem, layer) in self.pieces]
        if not there:
            return None
        parts = self.pieces[there[-1], layer]
        return np.concatenate([part.reshape(-1, width or part.shape[-1]) for part in parts])[:rows]

    def outputs(self, order: np.ndarray, experts: np.ndarray, weights: np.ndarray | None) -> ExpertOutputs | None:
        """Return the figures of experts' outputs for a trace's slots, rows in this order; None unless wanted."""
        if self.shown is None or weights is None:
            return None
        if unsaid := [layer for layer in self.layers() if layer not in self.shown.figures]:
            raise CaptureError(
                f"llama.cpp does not name the sum of the experts' outputs in layer {unsaid[0]} as moeviz knows it, so "
                "it cannot tell them apart. Leave outputs out, or load the transformers checkpoint."
            )
        given = [self.routed(layer, len(order))[0][order] for layer in self.layers()]
        figures = [np.concatenate(self.shown.figures[layer])[: len(order)][order] for layer in self.layers()]
        return outputs_of(experts, weights, given, figures, self.shown.stream)

    def score_function(self) -> ScoreFunction:
        """Return the function that turns logits into scores, if all layers say the same."""
        if any(stem == LATE for stem, _ in self.pieces):
            return "softmax"
        known = {self.scores.get(layer, "unknown") for layer in self.layers()}
        return known.pop() if len(known) == 1 else "unknown"


def decisions(recording: CallbackRecording, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Ids (L, T, K), weights (L, T, K), and logits (L, T, E) where all layers have them; rows in this order."""
    layers = [recording.routed(layer, len(order)) for layer in recording.layers()]
    ids = pad_layers([ids[order] for ids, _, _ in layers], NO_EXPERT).astype(np.int16)
    weights = pad_layers([weights[order] for _, weights, _ in layers], 0.0)
    logits = [logits[order] for _, _, logits in layers if logits is not None]
    whole = recording.keep_logits and len(logits) == len(layers)
    return ids, weights, pad_layers(logits, -np.inf).astype(np.float32) if whole else None
