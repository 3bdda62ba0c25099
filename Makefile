# `make` alone says what there is. All of it works in a fresh clone, again and again, and offline the second time.

PYTHON ?= python3
PORT ?= $(or $(EDGE_SERVER_PORT),8080)
ARGS ?=
ENGINE ?= $(or $(shell command -v docker || command -v podman),docker)
VENV := .venv/bin/python
URL := http://127.0.0.1:$(PORT)/projects/demo

export PYTHON
# Without bytecode every start of a hub compiles all it imports, which takes as long again as the start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test test-core test-fast test-all test-container test-next check lint words types contracts coverage bench bench-growth bench-stores bench-check soak \
	fmt docs lock binary bundle deb image clean \
	docs-site docs-serve portable test-portable test-arm64 setup-docs setup-build setup-run setup-dev setup-test setup-system setup-bench

help:  ## say what there is
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*  ## ' '/^[a-z-]*:.*  ## / { printf "  %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: setup-run  ## set up and serve on this machine (PORT=8080, ARGS="--config edge.toml")
	@printf '%s\n' '' \
	  'Three lines to try in other terminals:' \
	  "  curl -N $(URL)/events" \
	  "  curl $(URL)/events -d '{\"type\": \"progress\", \"data\": {\"percent\": 50}}'" \
	  "  curl $(URL)/trigger -d '{\"name\": \"api/iterate\", \"data\": {\"prompt\": \"hello\"}}'" ''
	@exec $(VENV) -m edge serve --port $(PORT) $(ARGS)

# Two workers for each core: most tests wait. ARGS="-n 0" runs the tests in one process.
PYTEST := $(VENV) -m pytest -n auto
test: setup-test  ## set up and run all tests that this machine can run, and list the others (ARGS="-k ring" for a part)
	$(PYTEST) $(ARGS)

CORE := tests/config tests/core tests/lint tests/logs
test-core: setup-dev  ## the core, configuration and logs, in under a minute; needs nothing but Python
	$(PYTEST) $(CORE) $(ARGS)

SLOW := slow or browser or namespaces or packaging or prometheus or proxies or redis
test-fast: setup-test  ## all but the slow tests, in under four minutes
	$(PYTEST) -m "not ($(SLOW))" $(ARGS)

test-all: setup-system setup-test setup-clients  ## all tests; a missing tool or right is an error (root on Debian 12, privileged)
	EDGE_TEST_ALL=1 $(PYTEST) $(ARGS)

# A copy, so that neither side's .venv is in the other's way.
test-container:  ## test-all in a privileged Debian 12, by docker or podman (ENGINE=podman)
	$(ENGINE) run --rm --privileged --env ARGS --volume "$(CURDIR)":/src:ro $(TEST_IMAGE) \
	  sh -c 'cp -r /src /edge && make -C /edge clean && make -C /edge test-all ARGS="$$ARGS"'

TEST_IMAGE ?= $(shell sed -n 's/^ARG PYTHON_IMAGE=//p' Dockerfile)

check: lint types contracts test-all  ## all that CI runs

lint: setup-dev  ## ruff (rules and format), spelling, words that are gone
	$(VENV) -m ruff check .
	$(VENV) -m ruff format --check .
	git ls-files -z | xargs -0 .venv/bin/codespell --toml pyproject.toml
	$(VENV) -m tests.lint.words

words: setup-dev  ## count the words that are still to go (tests/lint/words.txt)
	$(VENV) -m tests.lint.words --pending

types: setup-dev  ## mypy, strict
	$(VENV) -m mypy

contracts: setup-dev  ## who may import whom
	.venv/bin/lint-imports --no-logo

# With the system's Python where it is new enough: its libraries are of one system and look in no folder of this machine.
SYSTEM_PYTHON := /usr/bin/python3
BUILD_PYTHON ?= $(shell $(SYSTEM_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $(SYSTEM_PYTHON) || echo $(PYTHON))
BUILD_VENV := .make/build
BENCH_VENV := .make/bench
BENCH := $(BENCH_VENV)/bin/python

# What is measured is what is shipped: these run on the Python that goes into the binary.
bench: setup-bench  ## measure against peers and write docs/performance.md (ARGS="--only posts --rounds 3")
	$(BENCH) -m bench.run --out docs/performance.json --keep $(ARGS)
	$(BENCH) -m bench.report

bench-growth: setup-bench  ## measure how cost grows, and draw it
	$(BENCH) -m bench.growth --out docs/growth.json $(ARGS)
	$(BENCH) -m bench.report

bench-stores: setup-bench  ## measure what each store costs, and two nodes around one Redis (ARGS="--only latency")
	$(BENCH) -m bench.stores --out docs/stores.json $(ARGS)

bench-check: setup-bench  ## fail when processor time per operation has grown, measured against a bare C loop
	$(BENCH) -m bench.check $(ARGS)

soak: setup-bench  ## ten minutes of churn; fails when anything is left behind (ARGS="--minutes 1")
	$(BENCH) -m bench.soak --out docs/soak.json $(ARGS)

# Not from a lock: the newest there is, release candidates too.
NEXT_VENV := .make/next
test-next: setup-test  ## the tests with the next aiohttp, beside the locked rest
	@VENV=$(NEXT_VENV) requirements/install dev
	$(NEXT_VENV)/bin/python -m pip install --pre --upgrade --quiet aiohttp
	$(NEXT_VENV)/bin/python -m pip list | grep aiohttp
	$(NEXT_VENV)/bin/python -m pytest -n auto --deselect tests/test_package.py $(ARGS)

coverage: setup-test  ## the suite with a report of what it doesn't reach
	$(PYTEST) --cov --cov-report=term --cov-report=html $(ARGS)

binary: setup-build  ## dist/edge (one file) and dist/edge-dir/, checksums, what is inside (ARGS="--dist elsewhere")
	$(BUILD_VENV)/bin/python build/binary.py $(ARGS)

deb: binary  ## dist/edge_VERSION_ARCHITECTURE.deb
	$(BUILD_VENV)/bin/python build/deb.py $(ARGS)

ARCHITECTURE ?= $(shell dpkg --print-architecture)
DIST ?= dist
BUNDLE := dist/bundle
bundle:  ## what `make deb` left in dist/ (or DIST), under the names of a release, in dist/bundle/
	rm -rf $(BUNDLE) && mkdir -p $(BUNDLE)
	cp $(DIST)/edge $(BUNDLE)/edge-linux-$(ARCHITECTURE)
	cp $(DIST)/edge.cdx.json $(BUNDLE)/edge-linux-$(ARCHITECTURE).cdx.json
	cp $(DIST)/edge_*_$(ARCHITECTURE).deb $(BUNDLE)/
	tar --create --gzip --directory $(DIST) --transform 's/^edge-dir/edge/' --sort=name --owner=0 --group=0 --numeric-owner \
	  --file $(BUNDLE)/edge-dir-linux-$(ARCHITECTURE).tar.gz edge-dir
	cd $(BUNDLE) && sha256sum edge* >SHA256SUMS-$(ARCHITECTURE)

image:  ## the container image edge, by podman or docker (ENGINE=docker, ARGS for more of its build's flags)
	$(ENGINE) build --build-arg SOURCE_COMMIT="$$(git rev-parse HEAD)" \
	  --build-arg SOURCE_DATE_EPOCH="$$(git log -1 --format=%ct)" --tag edge $(ARGS) .

fmt: setup-dev  ## format, and mend what ruff can mend
	$(VENV) -m ruff check --fix-only .
	$(VENV) -m ruff format .

docs-site: setup-docs  ## build the site of the docs in .make/docs-site, and check its links
	$(DOCS_VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going docs .make/docs-site

docs-serve: docs-site  ## the site of the docs at http://127.0.0.1:8000
	$(DOCS_VENV)/bin/python -m http.server --bind 127.0.0.1 --directory .make/docs-site 8000

docs: setup-run  ## write docs/api.md, wire.d.ts and docs/edge.1 anew, and the addresses and versions that pages name
	$(VENV) -m docs.make_api
	$(VENV) -m docs.make_wire
	$(VENV) -m docs.make_man
	$(VENV) -m docs.make_addresses

# dev.lock is resolved first and is the constraint of the others: one version of a package everywhere.
COMPILE = $(VENV) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command 'make lock' $(UPGRADE)
lock: setup-dev  ## write requirements/*.lock anew from pyproject.toml (UPGRADE=--upgrade for newer versions)
	$(COMPILE) pyproject.toml --group dev --output-file requirements/dev.lock
	$(COMPILE) pyproject.toml --group build --constraint requirements/dev.lock --output-file requirements/build.lock
	$(COMPILE) pyproject.toml --constraint requirements/dev.lock --output-file requirements/run.lock
	$(COMPILE) --group bench --constraint requirements/dev.lock --output-file requirements/bench.lock
	$(COMPILE) --group docs --output-file requirements/docs.lock
	$(COMPILE) tests/clients/python/requirements.in --output-file tests/clients/python/requirements.txt
	$(COMPILE) --python-version 3.9 tests/clients/python/client.in --output-file tests/clients/python/client.txt
	$(COMPILE) examples/requirements.in --output-file examples/requirements.txt

portable:  ## a release's files that run with glibc 2.31, in dist/portable (root on Debian; ARCHITECTURE=arm64)
	build/portable/build $(ARCHITECTURE)

test-portable: setup-test  ## try what `make portable` built, in Debian 11 to 13 and Ubuntu (ARCHITECTURE=arm64)
	PORTABLE=dist/portable/$(ARCHITECTURE) ARCHITECTURE=$(ARCHITECTURE) $(VENV) -m pytest tests/packaging/portable.py $(ARGS)

# On an amd64 machine by emulation: half an hour the first time.
test-arm64: setup-test  ## build one file, folder, package and image for arm64 and try them (root on Debian, qemu-user-static)
	build/portable/build arm64
	$(MAKE) test-portable ARCHITECTURE=arm64
	ARCHITECTURE=arm64 $(VENV) -m pytest tests/packaging/test_image.py -k "not compose" $(ARGS)

clean:  ## remove all that the other targets made
	rm -rf .venv .make dist htmlcov bench/.built .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf .import_linter_cache tests/node/node_modules tests/clients/node/node_modules tests/clients/node/next/.next tests/clients/node/.recipes
	find edge tests -name __pycache__ -prune -exec rm -rf {} +

setup-run:
	@requirements/install run

setup-build:
	@VENV=$(BUILD_VENV) PYTHON=$(BUILD_PYTHON) requirements/install build

setup-dev:
	@requirements/install dev

DOCS_VENV := .make/docs
setup-docs:
	@VENV=$(DOCS_VENV) requirements/install docs

setup-bench:
	@VENV=$(BENCH_VENV) PYTHON=$(BUILD_PYTHON) requirements/install bench
	@tests/install-system-packages bench/system-packages.txt

setup-system:
	@tests/install-system-packages

# Client libraries in three languages, and what serves pages in front of a hub: some 900 MB.
setup-clients: setup-dev
	@tests/clients/install

# Not `npm ci`: it wants every platform's build of rollup in the lock, which names those of Linux only. This keeps to the
# lock's versions and hashes, and leaves it alone.
# Without npm the tests that need it are listed as not run.
setup-test: setup-dev
	@! command -v npm >/dev/null || cmp -s tests/node/package-lock.json tests/node/node_modules/.installed.json || { \
	  echo 'Installing tests/node/package-lock.json' && \
	  npm install --no-save --prefix tests/node --ignore-scripts --silent && \
	  cp tests/node/package-lock.json tests/node/node_modules/.installed.json; }
