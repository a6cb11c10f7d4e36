# The front door. `make help` lists what there is; CMakePresets.json holds the builds behind it.
# Every target that needs packages or programs gets them first.

SHELL := /bin/bash -o pipefail
.DEFAULT_GOAL := help
JOBS ?= $(shell nproc)
FUZZ_SECONDS ?= 60
SOAK_SEED ?= 1000000
SOAK_COUNT ?= 20000

PACKAGES := g++ cmake ninja-build libhwy-dev libtbb-dev libcli11-dev libfmt-dev nlohmann-json3-dev \
            libgtest-dev python3 python3-dev python3-venv pkgconf
LINT_PACKAGES := clang-format
FUZZ_PACKAGES := clang
NEON_PACKAGES := g++-aarch64-linux-gnu
COVERAGE_PACKAGES := gcovr
SCREENSHOT_PACKAGES := chromium
PEER_PACKAGES := libopenblas-dev
PEERS := build/peers-venv/bin

# Where the Python package is built and tested; without its packages (no network) it is left out.
VENV := build/venv
# Where PyTorch, transformers and JAX are, for their tests and the examples.
FRAMEWORKS := build/frameworks
# Where clang-tidy is.
LINT := build/lint
WITH_PYTHON = $$([ ! -e $(VENV)/complete ] || echo -DLONGSPAN_PYTHON=ON -DPython_EXECUTABLE=$(CURDIR)/$(VENV)/bin/python) \
              $$([ ! -e $(FRAMEWORKS)/complete ] || echo -DLONGSPAN_FRAMEWORKS=$(CURDIR)/$(FRAMEWORKS)/bin/python \
                 -DLONGSPAN_XLA_INCLUDE=$$(echo $(CURDIR)/$(FRAMEWORKS)/lib/python3*/site-packages/jaxlib/include))

# Kernels that this processor cannot run are left out where compiling them takes longest.
RUNNABLE = -DLONGSPAN_AVX512=$(if $(shell grep -w avx512bw /proc/cpuinfo),ON,OFF)

LAUNCHER := $(if $(shell command -v ccache),-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
FORMATTED = $(shell find include src cli python tests bench examples -name '*.h' -o -name '*.cpp' | sort)
# g++ names its 64-bit Arm twin so; Highway's headers hold all targets and are taken as they are.
NEON_COMPILER := aarch64-linux-gnu-g++

define build_preset
	cmake --preset $(1) $(LAUNCHER) $(2) >/dev/null
	cmake --build --preset $(1) -j $(JOBS)
endef

.PHONY: help
help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name what; do \
	  printf 'make %-15s %s\n' "$$name" "$$what"; done

.PHONY: deps
deps:  ## install what is missing of the Debian and Python packages the build and tests need
	@tools/install_deps.sh $(PACKAGES)
	@tools/make_venv.sh $(VENV) tests/python/requirements.txt

.PHONY: deps-frameworks
deps-frameworks: deps  ## PyTorch, transformers, JAX and a small model, for their tests and examples (6 GiB; 15 while installing)
	@tools/make_frameworks.sh $(FRAMEWORKS) tests/python/frameworks.txt

.PHONY: build
build: deps  ## build library, program, Python module, tests, benchmark into build/release
	@$(call build_preset,release,$(WITH_PYTHON))

.PHONY: run
run: build  ## the main job: real data checked against float64, and 131072 tokens in little memory
	@tools/run_main_job.py build/release

.PHONY: test
test: build  ## every test
	@[ -e $(VENV)/complete ] || echo "test: the Python package is skipped: $(VENV) lacks packages (make deps says why)"
	@ctest --preset release -j $(JOBS)

.PHONY: wheel
wheel: deps  ## a Python wheel that holds what it needs, in build/wheel, tested in a fresh environment
	@tools/make_wheel.sh $(VENV) build/wheel

.PHONY: bench
bench: build  ## exact and LSH attention against the peaks of the same run, answers checked first (40 minutes)
	@build/release/bench/exact
	@build/release/bench/lsh
	@build/release/bench/memory
	@build/release/cli/longspan bench --seqlen 512,4096 --causal=0,1 --dtype f32,bf16 -o md

.PHONY: report
report: build  ## time, memory and error of the methods as plots in one page, build/report/report.html (6 minutes; REPORT_ARGS)
	@tools/report.py build/release $(REPORT_ARGS)

.PHONY: screenshots
screenshots: build  ## the pages of explain, and of the report when it is there, as pictures in docs/
	@tools/install_deps.sh $(SCREENSHOT_PACKAGES)
	@tools/take_screenshots.sh build/release

.PHONY: soak
soak: build  ## the randomised tests, SOAK_COUNT cases each, from SOAK_SEED on (a failure prints how to repeat it)
	@cd build/release/tests && for test in exact_random exact_backward_random exact_dropout attention_weights mask_random \
	  lsh_attention_random lsh_backward_random lsh_cache_random lsh_diagnostics; do \
	  LONGSPAN_TEST_SEED=$(SOAK_SEED) LONGSPAN_TEST_COUNT=$(SOAK_COUNT) ./$${test}_test --gtest_brief=1 || exit 1; done

.PHONY: peers
peers: deps  ## longspan and its peers in turn: PyTorch, ONNX Runtime, ggml, Reformers (an hour, 6 GB; PEERS_ARGS="--rounds 3")
	@tools/install_deps.sh $(PEER_PACKAGES)
	@cmake --preset release -DLONGSPAN_PEERS=ON $(LAUNCHER) >/dev/null
	@cmake --build --preset release -j $(JOBS) --target longspan_shim
	@[ -x $(PEERS)/pip ] || python3 -m venv build/peers-venv
	@grep -v '^#' bench/peers/requirements.txt | while read -r package; do \
	  $(PEERS)/pip install -q "$$package" || echo "peers: $$package could not be installed"; done
	@$(PEERS)/python bench/peers/run.py --shim build/release/bench/peers/liblongspan_shim.so $(PEERS_ARGS)

.PHONY: reference
reference: build  ## docs/reference-*.md from the help of the program and the docstrings of the package
	@tools/make_reference.py build/release

.PHONY: lint
lint: deps  ## clang-format, floors, clang-tidy (8 minutes on 2 cores)
	@tools/install_deps.sh $(LINT_PACKAGES)
	@echo "lint: clang-format" && clang-format --dry-run -Werror $(FORMATTED)
	@echo "lint: floors" && tools/check_floors.py
	@tools/make_venv.sh $(LINT) tools/lint.txt
	@echo "lint: clang-tidy" && cmake --preset release $(LAUNCHER) $(WITH_PYTHON) >/dev/null
	@tools/run_clang_tidy.sh $(LINT)/bin build/release $(JOBS)

.PHONY: format
format:  ## rewrite all sources the way clang-format wants them
	@tools/install_deps.sh $(LINT_PACKAGES)
	@clang-format -i $(FORMATTED)

.PHONY: sanitize
sanitize: deps  ## every test under address, undefined behaviour and thread sanitizers
	@$(call build_preset,asan-ubsan,$(RUNNABLE))
	@ctest --preset asan-ubsan -j $(JOBS)
	@$(call build_preset,tsan,$(RUNNABLE))
	@ctest --preset tsan -j $(JOBS)

.PHONY: coverage
coverage: deps  ## lines and branches that the tests reach: build/coverage/coverage.txt
	@tools/install_deps.sh $(COVERAGE_PACKAGES)
	@$(call build_preset,coverage)
	@ctest --preset coverage -j $(JOBS)
	@gcovr -j $(JOBS) -r . -f src/ -f include/ -f cli/ build/coverage -o build/coverage/coverage.txt
	@tail -n 4 build/coverage/coverage.txt

.PHONY: fuzz
fuzz: deps  ## feed damaged files to the parsers, FUZZ_SECONDS each (clang, libFuzzer)
	@tools/install_deps.sh $(FUZZ_PACKAGES)
	@$(call build_preset,fuzz)
	@for parser in safetensors npy; do \
	  mkdir -p build/fuzz/corpus_$$parser; \
	  build/fuzz/tests/fuzz/fuzz_$$parser -max_total_time=$(FUZZ_SECONDS) -artifact_prefix=build/fuzz/ \
	    build/fuzz/corpus_$$parser tests/golden/files || exit 1; \
	done

.PHONY: neon
neon: deps  ## compile the library's sources for 64-bit Arm (nothing is run)
	@tools/install_deps.sh $(NEON_PACKAGES)
	@CXX=$(NEON_COMPILER) tools/compile_for_arm.sh build/neon

.PHONY: clean
clean:  ## remove build/ and out/
	rm -rf build out
