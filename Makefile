# The front door. `make help` lists what there is; CMakePresets.json has the build flavours.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PREFIX ?= /usr/local
DESTDIR ?=
ARGS ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export DESTDIR
# Compile once for all build folders and clones where ccache is installed.
ifneq ($(shell command -v ccache 2>/dev/null),)
export CMAKE_CXX_COMPILER_LAUNCHER := ccache
export CCACHE_BASEDIR := $(CURDIR)
export CCACHE_NOHASHDIR := true
endif

.PHONY: help
help: ## list the targets
	@echo 'attn: exact attention, and a look into what a model attends to'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  JOBS=2 limits parallel compiling; PREFIX and DESTDIR serve install and uninstall.'
	@echo "  make bench-peers ARGS='--quick --shapes A2 D2': see bench/peers.py --help."

.PHONY: run
run: packages-build ## build, obtain a small model, embed three sentences, write the page of its heads
	@tools/first_look.sh

.PHONY: test
test: packages-test ## build twice (release, sanitizers) and run every test; the last line counts them
	@tools/run_tests.sh

.PHONY: bench
bench: packages-build ## measure attention against the machine's ceiling; writes build/bench/attention.json
	@cmake --preset release >build/configure.log || { cat build/configure.log; exit 1; }
	@cmake --build --preset release --target attn_cli
	@mkdir -p build/bench
	@build/release/bin/attn bench --standard --output build/bench/attention.json

.PHONY: bench-recurrences
bench-recurrences: packages-build ## recurrences over single channels against the machine's ceilings
	@cmake --preset release >build/configure.log || { cat build/configure.log; exit 1; }
	@cmake --build --preset release --target bench_recurrences
	@build/release/bin/bench_recurrences

.PHONY: bench-peers
bench-peers: packages-python ## attention beside PyTorch, ONNX Runtime and OpenBLAS; writes build/bench/peers.json
	@tools/bench_peers.sh peers $(ARGS)

.PHONY: bench-curves
bench-curves: packages-build ## time and memory of every mechanism against the length; writes build/bench/curves.csv and .svg
	@cmake --preset release >build/configure.log || { cat build/configure.log; exit 1; }
	@cmake --build --preset release --target attn_cli
	@mkdir -p build/bench
	@build/release/bin/attn curves --output build/bench/curves $(ARGS)

.PHONY: bench-models
bench-models: packages-python ## language models and encoders beside Transformers; writes build/bench/models.json
	@tools/bench_peers.sh models $(ARGS)

.PHONY: fuzz
fuzz: packages-test ## fuzz the file parsers for a minute each
	@mkdir -p build
	@cmake --preset fuzz >build/configure.log || { cat build/configure.log; exit 1; }
	@cmake --build --preset fuzz --target fuzzers
	@tools/fuzz.sh build/fuzz 60

.PHONY: tsan
tsan: packages-test ## run the tests of attn::core under ThreadSanitizer
	@mkdir -p build
	@cmake --preset tsan >build/configure.log || { cat build/configure.log; exit 1; }
	@cmake --build --preset tsan
	@ctest --preset tsan

.PHONY: format
format: packages-lint ## format all C++ with the pinned clang-format
	@tools/format.sh

.PHONY: lint
lint: packages-lint ## run clang-tidy's short list (.clang-tidy) over the sources
	@mkdir -p build
	@cmake --preset sanitize >build/configure.log || { cat build/configure.log; exit 1; }
	@run-clang-tidy-14 -quiet -j $(JOBS) -p build/sanitize '$(CURDIR)/src/.*\.cpp$$'

.PHONY: docs
docs: packages-docs ## make the API pages, build/docs/html/index.html
	@mkdir -p build/docs
	@doxygen docs/Doxyfile
	@echo "$(CURDIR)/build/docs/html/index.html"

.PHONY: install
install: packages-build ## install libraries, headers and the command under PREFIX (/usr/local)
	@mkdir -p build
	@DESTDIR= cmake --preset release >build/configure.log || { cat build/configure.log; exit 1; }
	@DESTDIR= cmake --build --preset release --target attn_core attn_attn attn_cli
	@cmake --install build/release --prefix '$(PREFIX)'

.PHONY: uninstall
uninstall: ## remove what `make install` wrote under the same PREFIX
	@cmake -DPREFIX='$(PREFIX)' -P cmake/uninstall.cmake

.PHONY: clean
clean: ## delete build/
	@rm -rf build

.PHONY: packages-build packages-python packages-test packages-lint packages-docs
packages-build: ; @mkdir -p build; tools/packages.sh build
packages-python: ; @mkdir -p build; tools/packages.sh build test
packages-test: ; @mkdir -p build; tools/packages.sh build test page
packages-lint: ; @mkdir -p build; tools/packages.sh build test lint
packages-docs: ; @mkdir -p build; tools/packages.sh docs
