# make study   sets up the environment, then runs the study of params.yaml: raw data to figures
# make test    sets up the environment, then runs every check and test
# make docs    builds the documentation into site/; a link to nothing is an error
# VENV=path    uses or makes the environment there (it is 6 GB: share one between clones)

VENV ?= .venv
PYTHON ?= python3
PINS := $(filter-out %-slurm.txt,$(wildcard envs/*.txt)) src/advmerge/data/fonts.txt
RUN := . $(VENV)/bin/activate &&
SHELL := /bin/bash
DOCS = $(RUN) sphinx-build -W --keep-going -q docs site

.PHONY: study test check unit figures report docs audit env clean

study: env
	$(RUN) snakemake --cores all --resources gpu=2

# Fast ones first; the workflow tests wait as much as they compute.
test: check unit
	$(RUN) OMP_NUM_THREADS=1 python -m pytest -m workflow -n 3 --dist loadfile --no-loadscope-reorder

unit: env
	$(RUN) OMP_NUM_THREADS=1 python -m pytest -m "not workflow" -n 2 --dist loadfile

check: env
	$(RUN) ruff check . && ruff format --check . && snakefmt --check Snakefile workflow && mypy && snakemake --lint
	$(DOCS)

# The figures alone, drawn anew from the outcomes that are there.
figures: env
	$(RUN) snakemake --cores all --forcerun figure gallery --allowed-rules figure gallery figures -- figures

docs: env
	$(DOCS)

report: env
	$(RUN) snakemake --report reports/report.html

# Known vulnerabilities of the pinned versions; asks a service on the network. A version it does not know is a failure too.
audit:
	@tool=$$(mktemp -d) && trap 'rm -rf "$$tool"' EXIT && $(PYTHON) -m venv $$tool && \
	$$tool/bin/python -m pip install --disable-pip-version-check -q pip-audit && \
	$$tool/bin/pip-audit --strict --no-deps --disable-pip -r envs/constraints.txt

# Content, not times, says whether the environment is the pinned one: a fresh clone may share another's.
env:
	@pins=$$(cat $(PINS) | sha256sum) && \
	if [ "$$(cat $(VENV)/.advmerge 2>/dev/null)" != "$$pins" ]; then \
		$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "error: Python 3.11 or newer expected, found " + sys.version.split()[0] + "; give one as PYTHON=…")' && \
		{ [ -x $(VENV)/bin/python ] || $(PYTHON) -m venv $(VENV); } && \
		$(VENV)/bin/python -m pip install --disable-pip-version-check -q -r envs/requirements-dev.txt && \
		echo "$$pins" > $(VENV)/.advmerge; \
	fi

clean:
	rm -rf results reports logs site
