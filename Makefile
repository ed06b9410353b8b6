# Two commands for a newcomer: `make demo` and `make test`. Both install what they need into .venv first.
# Python 3.11 or later; make demo PYTHON=python3.12 names another.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
CLIP := .cache/clip-vit-base-patch16
DEMO := .cache/demo
# A test worker on each core, at most four; `make test WORKERS=` runs tests in one process.
WORKERS ?= -n logical --maxprocesses 4 --dist loadfile

.PHONY: demo demo-film demo-train test lint test-fast test-slow test-oldest test-newest bench clean

$(VENV)/installed: setup.cfg constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# A bundled clip to scenes and embeddings with the encoder that ships, then scenes like the one at 25 seconds.
demo: $(VENV)/installed
	$(BIN)/m2s embed tests/fixtures/big_buck_bunny_clip.mp4 --shots-per-scene 5 --output $(DEMO)
	$(BIN)/m2s search $(DEMO) --film bunny --at 00:00:25 --top 4

$(CLIP)/model.safetensors: $(VENV)/installed
	@test -n "$(M2S_ASSETS)" || { echo "set M2S_ASSETS to the assets folder: it holds films and CLIP's weights"; exit 1; }
	$(BIN)/python $(M2S_ASSETS)/clip-vit-base-patch16/unpack.py $(CLIP)

# A whole film with CLIP's weights (about a minute on two cores), then scenes like the one at three minutes ten.
demo-film: $(CLIP)/model.safetensors
	$(BIN)/m2s embed $(M2S_ASSETS)/videos/big_buck_bunny_full_448x252.mp4 --model $(CLIP) --output $(DEMO)-film
	$(BIN)/m2s search $(DEMO)-film --film big_buck_bunny --at 00:03:10

# The whole method in a film world of 260 films; the page at the end is runs/film_world/report.html.
demo-train: $(VENV)/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" recipes/film_world.sh

test: lint test-fast

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test-fast: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow" $(WORKERS)

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow $(WORKERS)

# The library's tests with the oldest versions that it supports (gigabytes: PyTorch for CUDA), and with newer ones.
LIBRARY_TESTS := modeling_m2s processing_m2s video_processing pretrained pipeline hub push hostile_files

test-oldest test-newest: test-%: .cache/%/installed
	.cache/$*/bin/python -m pytest -m "not slow" $(LIBRARY_TESTS:%=tests/test_%.py)

.cache/%/installed: tests/environments/%.txt setup.cfg
	$(PYTHON) -m venv .cache/$*
	.cache/$*/bin/pip install --quiet --requirement $< --editable '.[video]' accelerate parameterized peft psutil pytest \
		scikit-learn
	touch $@

bench: $(CLIP)/model.safetensors
	$(BIN)/python -m benchmarks.shots --assets $(M2S_ASSETS)
	$(BIN)/python -m benchmarks.embedding --assets $(M2S_ASSETS) --model $(CLIP)
	$(BIN)/python -m benchmarks.encoders --model $(CLIP)
	$(BIN)/python -m benchmarks.export --photographs $(M2S_ASSETS)/images/photographs \
		--video $(M2S_ASSETS)/videos/big_buck_bunny_full_448x252.mp4
	$(BIN)/python -m benchmarks.memory --assets $(M2S_ASSETS) --model $(CLIP)
	$(BIN)/python -m benchmarks.embed --assets $(M2S_ASSETS) --before 66231ac
	$(BIN)/python -m benchmarks.film_world
	$(BIN)/python -m benchmarks.features --model $(CLIP)
	$(BIN)/python -m benchmarks.co_watch
	$(BIN)/python -m benchmarks.reading
	$(BIN)/python -m benchmarks.mil
	$(BIN)/python -m benchmarks.mining
	$(BIN)/python -m benchmarks.moco
	$(BIN)/python -m benchmarks.metrics
	$(BIN)/python -m benchmarks.probes
	$(BIN)/python -m benchmarks.story_scenes

clean:
	rm -rf $(VENV) .cache build dist *.egg-info
