"""Settings of a run that each are refused in a sentence, before any model is opened."""

NAN, INF = float("nan"), float("inf")


SETTINGS_THAT_ARE_NONE = {
    "temperature": [-1, -0.5, INF, NAN, 1e-40, "1", True, None],
    "top_k": [0, -3, 2.5, NAN, "5", True],
    "top_p": [2, 0, 0.0, -0.1, NAN, "0.9", True],
    "seed": [-1, 2**64, 10**5000, 1.5, "3", None],
    "num_beams": [0, -1, 2.5, "2", True, None],
    "num_return_sequences": [0, -1, 1.5, "2", None],
    "cache_implementation": ["no such", "", 3, True],
    "prefill_chunk_size": [0, -1, 2.5, "4"],
    "prompt_lookup_num_tokens": [0, -2, 1.5, "3"],
    "assistant_model": ["gpt2", 3],
    "max_new_tokens": [-1, 10**12, 2.0, 1e12, NAN, "5", True, None],
    "sampling": ["hot", {"temperature": 1.0}],
    "decoding": ["greedy", {}, ["checkpoint"]],
    "prompts": [None, 3, [1, 2], [[1, 2]], b"text", ["text", None]],
}
MODELS_THAT_ARE_NONE = [None, 3, ["embedded"], object]
