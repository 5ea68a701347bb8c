# make app    create the environment, install, and serve the app on the embedded model
# make test   the same, then run the tests
# Both need Python 3.11 or newer and a package registry.

PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8501

.PHONY: app test check bench kernels browser test-gpu gpu-report test-vllm test-ray clean

app: .venv/installed
	$(BIN)/moeviz app --port $(PORT)

test: .venv/installed-test browser
	$(BIN)/python -m pytest -m "not gpu and not vllm and not ray"

check: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed-test browser
	$(BIN)/python -m benchmarks.capture
	$(BIN)/python -m benchmarks.app
	$(BIN)/python -m benchmarks.overview
	$(BIN)/python -m benchmarks.pages

# Compile every Triton kernel for sm_80 and sm_90; needs no GPU. A test does the same.
kernels: .venv/installed-test
	$(BIN)/python kernels/compile_check.py

# Tests that need what a laptop lacks. Each runs where its part is there.
test-gpu: .venv/installed-test
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m pytest tests/test_kernels_router.py tests/test_kernels_experts.py

# The same and the kernels' benchmark, on one page: docs/gpu-report.md.
gpu-report: .venv/installed-test
	$(BIN)/python -m benchmarks.gpu_report

test-vllm: .venv/installed-test
	$(BIN)/python -m pytest -m vllm

test-ray: .venv/installed-test
	$(BIN)/python -m pytest -m ray

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

.venv/installed: .venv/bin/python requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/installed-test: .venv/bin/python requirements.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	@touch $@ .venv/installed

clean:
	rm -rf .venv build *.egg-info
