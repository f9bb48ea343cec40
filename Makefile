# Every target makes what it needs in .venv, from CPython 3.11 or newer alone.
# A stamp in .venv stands for each set of packages, so that a second run starts at once.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint check interop bench bench-lossy fuzz clean
.DELETE_ON_ERROR:

demo: .venv/demo.stamp  ## pack, verify and restore a real BERT encoder, beside other tools; shrink a network that reads digits
	$(BIN)/python bench/demo.py
	$(BIN)/python examples/digits.py

test: .venv/test.stamp  ## all tests, on all cores
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(PYTEST_ARGS)

lint: .venv/check.stamp
	$(BIN)/ruff check .
	$(BIN)/mypy

interop: .venv/interop.stamp  ## quantized folders in the compressed-tensors package and in transformers, on the CPU
	$(BIN)/python -m pytest interop -q $(PYTEST_ARGS)

check: lint test  ## ruff, mypy, all tests

# Other files: make bench FILES="a.safetensors b.safetensors"
bench: .venv/bench.stamp  ## lossless coding beside all peers (zipnn brings torch)
	$(BIN)/python bench/lossless.py $(FILES)

# Other files: make bench-lossy FILES="a.safetensors"; other figures: make bench-lossy ARGS=--function
bench-lossy: .venv/lossy.stamp .venv/nncodec.stamp  ## error against bits beside NNCodec, GGUF, int4 and NF4
	$(BIN)/python bench/lossy.py $(FILES) $(ARGS)

# Longer or shorter: make fuzz MINUTES=1
MINUTES ?= 10
fuzz: .venv/test.stamp  ## damage packed files for ten minutes; none may pass, crash or hang
	$(BIN)/python tests/fuzz.py --minutes $(MINUTES)

clean:  ## everything that the targets above have made
	rm -rf .venv bench/models build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find core cli tests interop bench fixtures -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "CPython 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/test.stamp: .venv/python.stamp pyproject.toml
	$(PIP) --editable '.[test]'
	@touch $@

.venv/check.stamp: .venv/python.stamp pyproject.toml
	$(PIP) --editable '.[test,check]'
	@touch $@

# A peer without a build for this Python or processor must not keep the demo from running: it is left out.
.venv/demo.stamp: .venv/python.stamp pyproject.toml
	$(PIP) --editable '.[demo]' || $(PIP) --editable .
	@touch $@

# torch is that of `bench`: a wheel for the CPU where pip finds one, else the one of PyPI, which on Linux brings CUDA.
.venv/interop.stamp: .venv/python.stamp pyproject.toml
	$(PIP) --editable '.[test,interop]'
	@touch $@

.venv/bench.stamp: .venv/python.stamp pyproject.toml
	$(PIP) --editable '.[bench]'
	@touch $@

.venv/lossy.stamp: .venv/python.stamp pyproject.toml
	$(PIP) --editable '.[lossy]'
	@touch $@

# NNCodec wants a numpy older than ours, so it has a Python of its own; it brings torch. Without it it is left out.
.venv/nncodec.stamp: .venv/python.stamp
	$(PYTHON) -m venv .venv/nncodec
	.venv/nncodec/bin/python -m pip install --quiet --disable-pip-version-check nncodec==2.1.3 || rm -rf .venv/nncodec
	@touch $@
