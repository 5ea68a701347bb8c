"""The picture of a mixture of hidden Markov models, in numbers: the gate makes up its mind as somebody speaks."""

import numpy as np
import pandas as pd
from jaxtyping import Float64

from moeviz.errors import MoevizError
from moeviz.history.hmm_experts_1996.model import Mixture, settled_after
from moeviz.history.shared.datasets import Utterances


def names(data: Utterances) -> list[str]:
    """What each utterance is called: "utterance 12 of speaker 3", both counted from 1, in the order of the data."""
    seen: dict[int, int] = {}
    found = []
    for speaker in data.speaker.tolist():
        seen[speaker] = seen.get(speaker, 0) + 1
        found.append(f"utterance {seen[speaker]} of speaker {speaker + 1}")
    return found


def slowest(result: Mixture, data: Utterances) -> int:
    """The utterance that takes most frames to come to its last expert; the first of several."""
    return int(settled_after(result.logits(data).argmax(axis=-1)).argmax())


LATE = 4  # frames heard when it turns: early enough to be typical, late enough to be seen


def first_right(result: Mixture, data: Utterances) -> int:
    """The first utterance that begins with another expert, turns to its speaker's and stays; 0 where none does."""
    winner = result.logits(data).argmax(axis=-1)
    right = np.array(result.speaker_of)[winner] == data.speaker
    turns = (right[1:] != right[:-1]).sum(axis=0)
    return int((right[LATE - 1] & ~right[: LATE - 1].any(axis=0) & (turns == 1)).argmax())


def gate_over_time(result: Mixture, data: Utterances, number: int) -> pd.DataFrame:
    """The gate after each frame of one utterance: gₖ = softmaxₖ(log πₖ + log p(o₁ … oₜ | λₖ)).

    At frame 0 nothing has been heard yet, and the gate is the prior πₖ. Each expert is matched to the speaker of most
    of its training utterances, one expert per speaker; experts trained by speaker belong to that one.

    One row per frame and expert, frame by frame. Columns: frame int64 (frames heard so far, from 0; 6.4 ms each) ·
    expert int16 · speaker int16 (whom the expert is matched to, 1 to 9; 0 for nobody) · own bool (whether that is the
    actual speaker) · share float64 (of the gate; a frame's shares sum to 1).

    Raises `MoevizError` if there is no such utterance.

    Source: Smyth, NIPS 9:648-654 (1996), for the mixture; the gate over time is its E step after every frame.
    """
    if not 0 <= number < len(data.frames):
        raise MoevizError(f"There is no utterance {number}. Choose a number from 0 to {len(data.frames) - 1}.")
    logits = result.logits(Utterances(data.frames[number : number + 1], data.speaker[number : number + 1]))[:, 0]
    shares = np.concatenate([result.prior[None], _softmax(logits)])
    frames, experts = shares.shape
    speaker = np.array(result.speaker_of)
    return pd.DataFrame(
        {
            "frame": np.repeat(np.arange(frames), experts),
            "expert": np.tile(np.arange(experts, dtype=np.int16), frames),
            "speaker": np.tile((speaker + 1).astype(np.int16), frames),
            "own": np.tile(speaker == data.speaker[number], frames),
            "share": shares.ravel(),
        }
    )


def settling(result: Mixture, data: Utterances) -> pd.DataFrame:
    """How many utterances are with the right expert, and how many with the one that they keep, after so many frames.

    The expert of an utterance is the one with the highest share of the gate. It is right if that expert is matched to
    the actual speaker. After its end, an utterance counts as it ended, so that every share is a share of all
    utterances.

    One row per frame. Columns: frame int64 (frames heard so far, from 1) · settled float64 (share of the utterances
    that are with their last expert and stay there) · right float64 (share of the utterances) · chance float64 (share
    right at random: 1 / K of those whose speaker has an expert, K experts) · speaking int64 (utterances that have so
    many frames).

    Source: Smyth, NIPS 9:648-654 (1996), for the mixture; the gate over time is its E step after every frame.
    """
    winner = result.logits(data).argmax(axis=-1)
    frames = np.arange(1, len(winner) + 1)
    lengths = np.array([len(each) for each in data.frames])
    return pd.DataFrame(
        {
            "frame": frames,
            "settled": (settled_after(winner) <= frames[:, None]).mean(axis=1),
            "right": (np.array(result.speaker_of)[winner] == data.speaker).mean(axis=1),
            "chance": np.isin(data.speaker, result.speaker_of).mean() / len(result.prior),
            "speaking": (lengths >= frames[:, None]).sum(axis=1),
        }
    )


def _softmax(logits: Float64[np.ndarray, "T K"]) -> Float64[np.ndarray, "T K"]:
    return np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
