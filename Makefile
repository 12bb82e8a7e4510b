# Each target sets up what it needs in .venv first; see `make help`.
PYTHON ?= python3
BIN := .venv/bin
# core, command line and node: what uses numpy, scipy, OpenCV, Pillow, matplotlib and typer most, within 4 minutes
ROBOT_TESTS := $(wildcard $(addprefix test/,test_answers.py test_image_*.py test_kalman*.py test_tracking.py \
  test_extension_modules.py test_perception.py test_engine.py test_charts.py test_cli.py \
  media/test_encodings.py ros/test_messages.py ros/test_node.py))

# A file runs in one worker, so that its tests share their model, node or server. In the order of their folders the
# files that take longest do not come last. llama.cpp's threads must not spin on cores that the workers share.
PARALLEL := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
  --dist loadfile --no-loadscope-reorder

# a sourced ROS workspace must not shadow the pinned packages
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: help desktop jetson robot demo test test-again test-robot test-jammy fuzz coverage lint format docs pictures site model constraints clean environment

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

desktop: ## install on this computer, with CUDA if it has a GPU; checks the requirements first
	@$(PYTHON) tools/install.py desktop $(ARGS)

jetson: ## install on a Jetson with JetPack 6 or 7; checks the requirements first
	@$(PYTHON) tools/install.py jetson $(ARGS)

robot: ## install beside ROS 2 on a robot, for colcon build; never changes the system's Python packages
	@$(PYTHON) tools/robot_environment.py $(ARGS)

demo: environment ## run camera and node on the demo world, compared with the ground truth; results in out/demo
	$(BIN)/lfm-perception demo --out out/demo

test: lint ## lint, type check and all tests
	$(PARALLEL) --durations 15

test-again: environment ## the tests that failed last, one after the other; fails when there are none
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

fuzz: environment ## 200,000 mutated inputs for all readers (an hour); figures in benchmarks/results/fuzz.json
	$(BIN)/python test/fuzz/run.py --inputs 200000 --out benchmarks/results/fuzz.json

test-robot: ## tests of core, node and command line with the package versions of Ubuntu 24.04
	@$(PYTHON) tools/robot_environment.py --like noble
	.venv-noble/bin/python -m pytest $(ROBOT_TESTS)

test-jammy: ## the same with the package versions of Ubuntu 22.04: make test-jammy PYTHON=python3.10
	@$(PYTHON) tools/robot_environment.py --like jammy
	.venv-jammy/bin/python -m pytest $(ROBOT_TESTS)

coverage: environment ## all tests with coverage; prints the figure, which must be 90% or more
	$(PARALLEL) --cov --cov-report=term --cov-fail-under=90

lint: environment ## check style, types and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo --no-cache

format: environment ## put the code into the common format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: environment ## write what is generated in pages: parameters, topics, modules, measured figures and charts
	PYTHONPATH=tools $(BIN)/python -m documentation
	$(BIN)/python benchmarks/charts.py

pictures: environment ## make the animation of the README and the site: the demo model on the demo world
	$(BIN)/lfm-perception run demo --seed 3 --seconds 11 --out out/pictures --force
	PYTHONPATH=tools $(BIN)/python -m documentation.animation out/pictures/overlay.mp4 docs/images/demo.webp

site: environment ## build the site of docs/ in build/site, readable without a network; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

model: environment ## train the demo model anew (hours), measure it, and put it in place of the one that ships
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	PYTHONPATH=tools $(BIN)/python -m demo_model.train --out build/demo_model $(ARGS)
	PYTHONPATH=tools $(BIN)/python -m demo_model.release --checkpoint build/demo_model/checkpoint.pt

constraints: environment ## pin the newest versions in constraints.txt, and those of images with hashes
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	index=$$($(BIN)/python -m pip config get global.index-url 2>/dev/null || echo https://pypi.org/simple); \
	printf 'cmake\nninja\npip\nscikit-build-core\ntrackeval\nuv\n' | \
	  UV_DEFAULT_INDEX=$${PIP_INDEX_URL:-$$index} $(BIN)/uv pip compile --quiet --universal --python-version 3.10 \
	  --extra opencv --extra test --extra docs --extra eval --extra models --extra mcp --extra memory --extra mqtt \
	  --extra ocr --extra ros --no-annotate \
	  --custom-compile-command "make constraints" setup.cfg - --output-file constraints.txt --upgrade; \
	echo pip | UV_DEFAULT_INDEX=$${PIP_INDEX_URL:-$$index} $(BIN)/uv pip compile --quiet --universal \
	  --python-version 3.10 --extra opencv --extra models --extra ros --no-annotate --generate-hashes \
	  --constraint constraints.txt --custom-compile-command "make constraints" setup.cfg - \
	  --output-file requirements.txt

clean: ## remove everything that make created here (the compiled llama.cpp stays in ~/.cache)
	rm -rf .venv .venv-ros .venv-noble .venv-jammy out build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

environment:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed ($(PYTHON)): install it, or name it with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) tools/environment.py
