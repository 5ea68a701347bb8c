"""A real vLLM server on this machine's CPU, in an environment of its own (`make test-vllm`)."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from servers import end_with_parent, free_port
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM
from waiting import until

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("MOEVIZ_VLLM_PYTHON", ROOT / ".venv-vllm" / "bin" / "python"))
ROUTED = "--enable-return-routed-experts"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GB
    "VLLM_HOST_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
}
MOST = {"--max-model-len": 256, "--max-num-batched-tokens": 256, "--max-num-seqs": 8}
PLAIN = ["--dtype", "float32", "--enforce-eager", *(str(word) for pair in MOST.items() for word in pair)]
SECONDS_TO_START, SECONDS_TO_END = 400, 30
SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "initializer_range": 0.15,
}


@dataclass
class Running:
    """A server."""

    url: str
    process: subprocess.Popen
    log: Path

    def kill(self) -> None:
        """At once, with all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        """As an operator would; then at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(SECONDS_TO_END)
        self.kill()
        self.process.wait()


def launched(words: Sequence[str], folder: Path, url: str, **more: str) -> Running:
    """A process of its own session, so that all of it can be ended."""
    log = folder / f"vllm-{time.monotonic_ns()}.log"
    environment = {**os.environ, **ENVIRONMENT, "VLLM_CACHE_ROOT": str(folder / "cache"), **more}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(PYTHON), *words],
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
            cwd=folder,
            preexec_fn=end_with_parent,
        )
    return Running(url, process, log)


def wait_for(running: Running) -> None:
    """Until it answers."""

    def answers() -> bool:
        if running.process.poll() is not None:
            raise AssertionError("It ended.")
        with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{running.url}/health", timeout=5):
            return True
        return False

    try:
        until(answers, SECONDS_TO_START)
    except AssertionError as error:
        pytest.fail(f"vLLM did not start. {error} {running.log.read_text(errors='replace')[-3000:]}")


@contextmanager
def vllm(model: Path, folder: Path, *flags: str) -> Iterator[Running]:
    """A server of that model, as long as somebody uses it. Skips where there is no vLLM."""
    words = ["-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    with _nodes(words, folder, [[*flags]], [{}]) as running:
        yield running


@contextmanager
def vllm_on_two_nodes(model: Path, folder: Path, *flags: str) -> Iterator[Running]:
    """The same model, halved: two processes that were started apart, as on two machines, and find each other."""
    words = [str(Path(__file__).parent / "vllm_cli.py"), "serve", str(model)]
    both = [*flags, "--tensor-parallel-size", "2", "--nnodes", "2", "--master-addr", "127.0.0.1"]
    both += ["--master-port", str(free_port()), "--node-rank"]
    cores = [{"VLLM_CPU_OMP_THREADS_BIND": str(core)} for core in range(2)]
    with _nodes(words, folder, [[*both, "0"], [*both, "1", "--headless"]], cores) as running:
        yield running


@contextmanager
def _nodes(
    words: Sequence[str], folder: Path, flags: Sequence[Sequence[str]], more: Sequence[dict[str, str]]
) -> Iterator[Running]:
    """The first node answers. All are ended."""
    if not PYTHON.exists():
        pytest.skip("There is no vLLM here: “make test-vllm” installs one into .venv-vllm.")
    port = free_port()
    where = ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), *PLAIN]
    nodes = [
        launched([*words, *where, *own], folder, f"http://127.0.0.1:{port}", **environment)
        for own, environment in zip(flags, more, strict=True)
    ]
    try:
        wait_for(nodes[0])
        yield nodes[0]
    finally:
        for node in nodes:
            node.end()


def write_mixtral(folder: Path) -> Path:
    """Four layers of eight experts, two of them for each token."""
    torch.manual_seed(0)
    config = MixtralConfig(
        **SIZES, intermediate_size=128, num_local_experts=8, num_experts_per_tok=2, sliding_window=None
    )
    MixtralForCausalLM(config).float().save_pretrained(folder)
    return _with_tokenizer(folder)


def write_qwen3(folder: Path) -> Path:
    """Three of eight experts for each token, and two dense layers: the first and the third."""
    torch.manual_seed(1)
    config = Qwen3MoeConfig(
        **SIZES,
        intermediate_size=128,
        moe_intermediate_size=64,
        num_experts=8,
        num_experts_per_tok=3,
        norm_topk_prob=True,
        mlp_only_layers=[0, 2],
    )
    Qwen3MoeForCausalLM(config).float().save_pretrained(folder)
    return _with_tokenizer(folder)


def _with_tokenizer(folder: Path) -> Path:
    """A token a byte, and a chat template."""
    vocabulary = {"<s>": 0, "</s>": 1, "<pad>": 2}
    for character in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[character] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    fast.save_pretrained(folder)
    return folder
