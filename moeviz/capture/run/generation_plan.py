"""The plan of a generation, settled before it runs: every setting that transformers will follow, and a description.

`generate()` takes missing settings from the checkpoint's generation_config. Here it gets all of them: either exactly
those of `Sampling` and `Decoding`, or, if requested, those of the checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from transformers import GenerationConfig, GenerationMixin, PreTrainedModel

from moeviz.capture.run.decoding import CHECKPOINT, Decoding, HowToDecode, Sampling, check_can_grow, check_values
from moeviz.errors import CaptureError

TRACED = ("greedy_search", "sample", "beam_search", "beam_sample")  # transformers' names of ways to generate
NOT_TRACED = {  # settings of a checkpoint under which a trace would not be of what is returned
    "stop_strings": "it ends a text by its characters, not by a token",
    "token_healing": "it changes the prompt",
    "guidance_scale": "it reads every token twice",
    "max_time": "it ends a text by the clock",
}
ALWAYS: dict[str, Any] = {  # what decides nothing about the text
    "use_cache": True,
    "disable_compile": True,
    "return_dict_in_generate": True,
    "output_attentions": False,
    "output_hidden_states": False,
    "output_scores": False,
    "output_logits": False,
}
DESCRIBED = ("do_sample", "num_beams", "num_return_sequences", "temperature", "top_k", "top_p", "transformers_version")
OF_SAMPLING = ("min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
END_OF_TEXT = "the model wrote its end-of-text token"


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """All settings of a generation, and their description."""

    max_new_tokens: int
    config: GenerationConfig | None  # None: nothing is generated
    sampling: Sampling
    decoding: Decoding  # of a checkpoint: its beams, sequences and caches
    of_checkpoint: bool
    words: str  # as `ModelInfo.decoding` has it


PROMPTS_ONLY = GenerationPlan(0, None, Sampling(), Decoding(), of_checkpoint=False, words="")


def plan_for(
    model: PreTrainedModel, max_new_tokens: int, sampling: Sampling, decoding: HowToDecode, growing: bool = False
) -> GenerationPlan:
    """Settle how this model generates. Raises `CaptureError` if it cannot, or if that could not be recorded."""
    of_checkpoint = decoding == CHECKPOINT
    if max_new_tokens == 0:
        plain = Decoding() if of_checkpoint else cast(Decoding, decoding)
        return GenerationPlan(0, None, sampling, plain, of_checkpoint, words="")
    if not model.can_generate():
        raise CaptureError(f"{type(model).__name__} generates no text. Trace only its prompt, with max_new_tokens=0.")
    if not of_checkpoint:
        decoding = cast(Decoding, decoding)
        config = _config_from_decoding(model, max_new_tokens, decoding)
        return GenerationPlan(
            max_new_tokens, config, sampling, decoding, of_checkpoint, decoding_words(sampling, decoding)
        )
    config = _config_of_checkpoint(model, max_new_tokens)
    if growing:
        check_can_grow(config.num_beams)
    words = _words_of_checkpoint(config, sampling.seed)
    decoding = Decoding(config.num_beams, config.num_return_sequences)
    config.num_return_sequences //= decoding.copies
    return GenerationPlan(max_new_tokens, config, sampling, decoding, of_checkpoint, words)


class _Settled(GenerationConfig):
    """Complete settings: `generate()` does not replace those that are None by the checkpoint's."""

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **kwargs: Any) -> dict[str, Any]:
        filled: dict[str, Any] = (
            {}
            if defaults_only
            else super().update(  # type: ignore[no-untyped-call]
                False, allow_custom_entries, **kwargs
            )
        )
        return filled


def _settle(settings: dict[str, Any], defaults: dict[str, Any]) -> _Settled:
    """Complete settings by these defaults, then by those of transformers."""
    config = _Settled(**settings)  # type: ignore[no-untyped-call]
    GenerationConfig.update(config, **defaults, defaults_only=True, allow_custom_entries=True)
    GenerationConfig.update(config, **config._get_default_generation_params(), defaults_only=True)
    config.max_length = None  # max_new_tokens says how long
    return config


def _config_from_decoding(model: PreTrainedModel, max_new_tokens: int, decoding: Decoding) -> _Settled:
    """Settle the config by `decoding`, with the checkpoint's tokens that start and end a text."""
    own = cast(GenerationMixin, model).generation_config
    first_stop = own.eos_token_id[0] if isinstance(own.eos_token_id, list) else own.eos_token_id
    tokens = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "decoder_start_token_id")}
    tokens["pad_token_id"] = 0 if first_stop is None else first_stop  # fills the rows that stop early
    ways = {field.name: getattr(decoding, field.name) for field in fields(decoding) if field.name != "assistant_model"}
    ways["num_return_sequences"] //= decoding.copies
    return _settle(ALWAYS | tokens | ways | {"max_new_tokens": int(max_new_tokens)}, {})


def _config_of_checkpoint(model: PreTrainedModel, max_new_tokens: int) -> _Settled:
    """Settle the config by the checkpoint's generation_config, except for the length."""
    own = cast(GenerationMixin, model).generation_config.to_dict()
    try:
        config = _settle(ALWAYS | {"max_new_tokens": int(max_new_tokens)}, own)
        way = str(config.get_generation_mode().value)
    except (ValueError, TypeError) as error:
        raise CaptureError(
            f"The checkpoint's own generation settings do not hold: {error} Correct model.generation_config, or leave "
            "decoding out."
        ) from error
    checked = {name: getattr(config, name) for name in ("num_beams", "num_return_sequences", "prefill_chunk_size")}
    check_values(checked | ({"temperature": config.temperature} if config.do_sample else {}), "The checkpoint's own")
    if way not in TRACED:
        raise CaptureError(
            f"The checkpoint's own settings ask for {way.replace('_', ' ')}, which moeviz cannot record. Change "
            "model.generation_config, or leave decoding out."
        )
    for name, why in NOT_TRACED.items():
        value = getattr(config, name)
        if value and not (name == "guidance_scale" and value == 1):
            raise CaptureError(
                f"The checkpoint's own settings ask for {name}, which moeviz cannot record: {why}. Change "
                "model.generation_config, or leave decoding out."
            )
    return config


def decoding_words(sampling: Sampling, decoding: Decoding) -> str:
    """Describe how tokens are generated, for `ModelInfo.decoding`."""
    drawn = {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p", "seed")}
    return _words(decoding.num_beams, decoding.num_return_sequences, drawn if sampling.temperature else {})


def ended_words(words: str, ended: Sequence[int], sequences: int, asked: int, why: str = END_OF_TEXT) -> str:
    """Add to a decoding in words that sequences ended before they had all tokens, and why.

    ended   the tokens of each sequence that ended early; `sequences` is the number of all.

    >>> ended_words("greedy", [7], 1, 20), ended_words("greedy", [], 1, 20)
    ('greedy; ended after 7 of 20 tokens: the model wrote its end-of-text token', 'greedy')
    >>> ended_words("greedy", [3, 7], 4, 20)
    'greedy; 2 of 4 sequences ended after 3 to 7 of 20 tokens: the model wrote its end-of-text token'
    """
    if not ended:
        return words
    which = "ended" if sequences == 1 else f"{len(ended):,} of {sequences:,} sequences ended"
    after = " to ".join(f"{length:,}" for length in sorted({min(ended), max(ended)}))
    return f"{words}; {which} after {after} of {asked:,} tokens: {why}"


def _words_of_checkpoint(config: GenerationConfig, seed: int) -> str:
    drawn = {"temperature": config.temperature, "top_k": config.top_k or None, "top_p": config.top_p, "seed": seed}
    if drawn["top_p"] == 1:
        del drawn["top_p"]
    main = _words(config.num_beams, config.num_return_sequences, drawn if config.do_sample else {})
    silent = DESCRIBED if config.do_sample else DESCRIBED + OF_SAMPLING
    plain = vars(_settle(ALWAYS | {"max_new_tokens": config.max_new_tokens}, {}))
    more = [
        f"{name.replace('_', ' ')} {_short(getattr(config, name))}"
        for name, usual in plain.items()
        if getattr(config, name) != usual and name not in silent and not name.startswith("_")
        if not name.endswith("_token_id") or name.startswith("forced")
    ]
    return ", ".join([f"the checkpoint's own settings: {main}", *more])


def _words(num_beams: int, sequences: int, drawn: dict[str, Any]) -> str:
    """Describe a generation. `drawn` has the settings of sampling; empty if the likeliest token is taken."""
    parts = [f"beam search with {num_beams} beams"] * (num_beams > 1)
    values = [f"{name.replace('_', '-')} {value:g}" for name, value in drawn.items() if value is not None]
    parts += [f"sampled at {', '.join(values)}"] * bool(values)
    return ", ".join([*(parts or ["greedy"]), *([f"{sequences} sequences of each prompt"] * (sequences > 1))])


def _short(value: object) -> str:
    text = repr(value)  # of what a stranger wrote, nothing that cannot be printed
    return text if len(text) <= 40 else f"of {len(value)} entries" if isinstance(value, list | dict) else "…"
