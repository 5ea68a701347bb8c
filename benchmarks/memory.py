"""What does a trace weigh, and does capture leak?

    python -m benchmarks.memory [--captures N]

First: bytes that recording 131,072 tokens keeps in a stack of routers shaped like Qwen3-30B-A3B's (48 layers, 128
experts, top-8; the rest of the model is as small as it can be), with ids and weights alone, beside the closed form, and
what the logits would add. Then: memory of this process after many captures of the embedded model.
"""

import argparse
from pathlib import Path

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from moeviz.capture.models.load import load_model
from moeviz.capture.record.hooks import Recording, listen
from moeviz.capture.trace import trace

SEQUENCES, POSITIONS = 256, 512
LAYERS, EXPERTS, TOP_K = 48, 128, 8
TEXT = "The quick brown fox jumps over the lazy dog. " * 5


def router_stack() -> Qwen3MoeForCausalLM:
    """A model with this many routers, experts and slots, and little else."""
    config = Qwen3MoeConfig(
        vocab_size=64,
        hidden_size=8,
        intermediate_size=8,
        moe_intermediate_size=8,
        num_hidden_layers=LAYERS,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
    )
    return Qwen3MoeForCausalLM(config).eval()


def kept(recording: Recording) -> int:
    """Bytes of all that a recording holds, each storage once."""
    parts = [part for heard in recording.outputs for part in (*heard.experts, *heard.weights, *heard.logits)]
    return sum({part.untyped_storage().data_ptr(): part.untyped_storage().nbytes() for part in parts}.values())


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@torch.no_grad()
def weigh() -> None:
    """Print what a long recording keeps."""
    model, tokens = router_stack(), SEQUENCES * POSITIONS
    ids = torch.randint(64, (SEQUENCES, POSITIONS))
    with listen(model) as recording:
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    closed = LAYERS * tokens * TOP_K * (2 + 4)  # int16 ids, float32 weights
    print(
        f"{tokens:,} tokens, {LAYERS} layers, {TOP_K} of {EXPERTS} experts: ids and weights {kept(recording):,} bytes"
    )
    print(f"closed form, 6 bytes an assignment: {closed:,}; logits would add {LAYERS * tokens * EXPERTS * 4:,}")


def repeat(captures: int) -> None:
    """Print the memory of this process while it captures."""
    model, every = load_model(), max(1, captures // 10)
    for done in range(captures + 1):
        trace(model, TEXT)
        if done % every == 0:
            print(f"{done:>6} captures  {resident() / 2**20:8.1f} MiB resident", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n")[0])
    parser.add_argument("--captures", type=int, default=1000)
    arguments = parser.parse_args()
    weigh()
    repeat(arguments.captures)
