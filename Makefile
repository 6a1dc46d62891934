# The verbs a person remembers. Each builds .venv on its own; once it is built, nothing here needs a network.

PYTHON ?= python3
# Installed first, so that pip takes the light CPU build where it has one at hand. `make TORCH="torch>=2.4" test` for another.
TORCH ?= torch==2.13.0
BIN := .venv/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 $(BIN)/python -m pip install --quiet --quiet

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-slow test-line test-scale serve-demo check fuzz attack bench docs site galleries wheels clean

help:
	@echo "make demo    render sample parts, fit, judge, report: open flawforge-demo/report.html"
	@echo "make serve-demo  the web page on the demo's model: open the address that it prints"
	@echo "make test    run the tests: under six minutes on two cores"
	@echo "make test-slow  the slow ones: kills, threads, huge pictures, every method's exports"
	@echo "make test-line  PostgreSQL, the service under load and faults, the web page in Chromium"
	@echo "make test-scale  those that start a Ray cluster on this machine; installs the extra scale"
	@echo "make check   lint, types, and the direction of the imports"
	@echo "make docs    write the generated pages of docs/ and the table of README.md"
	@echo "make site    build the documentation as a site: open site/index.html"
	@echo "make galleries  render example reports into galleries/ (a quarter of an hour)"
	@echo "make bench   measure on real pictures: FLAWFORGE_DATA=folder make bench (hours)"
	@echo "make fuzz    ten thousand harmed pictures and model folders"
	@echo "make attack  mutate pictures and models, kill, fill the disk: benchmarks/results/attack.csv (half an hour)"
	@echo "make wheels  build dist/: flawforge and flawforge-runtime, to carry to a machine without internet"
	@echo "make clean   remove .venv and what the tools left behind"

# .venv/.ready is what .venv was built from: pyproject.toml down to the tools' settings, and the two files beside it. A new
# dependency installs again; a new time stamp or lint rule does not.
BUILT_FROM := { sed '/^\[tool\.ruff\]/,$$d' pyproject.toml; cat setup.py runtime/pyproject.toml; }

venv:
	@$(BUILT_FROM) | cmp -s - .venv/.ready || { \
	  set -e; \
	  echo "building .venv (once; this needs pip's index or wheels)"; \
	  test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	  $(PIP) "$(TORCH)"; \
	  $(PIP) --editable ".[dev]"; \
	  $(PIP) --no-deps --editable ./runtime; \
	  $(BUILT_FROM) > .venv/.ready; \
	}

demo: venv
	@rm -rf flawforge-demo
	$(BIN)/flawforge demo --out flawforge-demo

serve-demo: venv
	$(BIN)/python tools/serve_demo.py

test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 -m slow

test-line: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m line

test-scale: venv
	@$(BIN)/python -c "import ray, moto, s3fs" 2>/dev/null || \
	  { $(PIP) --editable ".[scale,scale-test]" && $(PIP) --no-deps --editable ./runtime; }
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m scale

check: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: venv
	$(BIN)/python docs/make_known.py
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_api.py
	$(BIN)/python docs/make_notebook.py
	$(BIN)/python docs/make_forgers.py
	$(BIN)/python docs/make_methods.py
	$(BIN)/python docs/make_architecture.py
	$(BIN)/python benchmarks/regret_table.py
	$(BIN)/python benchmarks/auto_page.py
	$(BIN)/python benchmarks/papers_page.py
	$(BIN)/python benchmarks/trust_page.py
	$(BIN)/python benchmarks/readme_table.py
	$(BIN)/python benchmarks/speed_table.py
	$(BIN)/python benchmarks/peer_page.py
	$(BIN)/python benchmarks/scale_page.py
	$(BIN)/python benchmarks/comparison_page.py
	$(BIN)/python benchmarks/guard_page.py
	$(BIN)/python benchmarks/real_defects_page.py
	$(BIN)/python benchmarks/ablation_tables.py

# An environment of its own, without torch. It is built once and needs pip's index for that; the site itself needs no network.
SITE := .venv-docs/bin
SITE_PACKAGES = $$($(SITE)/python -c "import tomllib; \
  print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs']))")

site:
	@test -x $(SITE)/python || $(PYTHON) -m venv .venv-docs
	@echo "$(SITE_PACKAGES)" | cmp -s - .venv-docs/.ready || { \
	  set -e; \
	  echo "$(SITE_PACKAGES)" > .venv-docs/.wanted; \
	  PIP_DISABLE_PIP_VERSION_CHECK=1 $(SITE)/python -m pip install --quiet --requirement .venv-docs/.wanted; \
	  mv .venv-docs/.wanted .venv-docs/.ready; \
	}
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(SITE)/python -m mkdocs build

galleries: venv
	rm -rf galleries
	OMP_NUM_THREADS=1 $(BIN)/flawforge demo -o galleries/demo
	OMP_NUM_THREADS=1 $(BIN)/python docs/make_reports.py

fuzz: venv
	FLAWFORGE_FUZZ=10000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --timeout 7200 tests/test_fuzz.py tests/test_intact.py

attack: venv
	$(BIN)/python tools/attack.py

bench: venv
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/readme_table.py

# FLAWFORGE_RELEASE: the wheel names flawforge-runtime by version, not by this folder.
wheels: venv
	FLAWFORGE_RELEASE=1 $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist . ./runtime

clean:
	rm -rf .venv .venv-docs site galleries dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache flawforge-demo
