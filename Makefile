# Everything is set up in .venv; PYTHON chooses the interpreter it is made from.
PYTHON ?= python3
BIN := .venv/bin

# One thread each: two processes of two threads on two cores wait for each other, and a test of 2 seconds takes 100.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test ci test-all test-gpu docs dist smoke bench leaderboard check format clean

demo: .venv/base
	$(BIN)/byheart reproduce double-descent --scale quick --out demo
	@echo "The report is demo/report.html, the figure demo/double-descent.png."

test: check
	$(PYTEST)

ci: check
	$(PYTEST) -m "(slow or integrations) and not large and not gpu"
	$(MAKE) docs  # after the tests, whose notebooks it shows

test-all: check
	$(PYTEST) -m "not gpu"

test-gpu: .venv/dev
	$(BIN)/pytest -m gpu tests/toy/kernels

docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "The site is site/index.html."

dist: .venv/dev
	rm -rf build dist
	$(BIN)/python -m build --outdir dist

smoke: dist
	$(BIN)/python .ci/smoke.py

bench: .venv/bench
	$(BIN)/python -m benchmarks --out benchmarks

check: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

leaderboard: .venv/dev
	$(BIN)/byheart leaderboard --out results/leaderboard

format: .venv/dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.venv/base: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/dev: .venv/base
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps pytorch-ood timm
	# They need torchvision of torch's build; timm's tests have one that need not be, apart so that nothing else finds it.
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps --upgrade --target .venv/torchvision torchvision
	@touch $@

.venv/bench: .venv/base
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[bench]"
	@touch $@

clean:
	rm -rf .venv .notebooks build demo dist site
