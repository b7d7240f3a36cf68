# Frugal Diffusion. `make help` lists the targets.
PYTHON3     ?= python3
TORCH_INDEX ?=
RATIO       ?=
VENV        := .venv
PYTHON      := $(VENV)/bin/python
INSTALLED   := $(VENV)/installed

# One name for all processes of this build: what they measure is told apart from what an earlier build left.
export FRUGAL_RUN := $(shell date +%Y%m%dT%H%M%S)-$(shell echo $$PPID)

CHAPTERS    := $(patsubst notebooks/%.ipynb,_build/notebooks/%.ipynb,$(sort $(wildcard notebooks/*.ipynb)))
# What a chapter's numbers depend on: code, weights and published configurations.
SOURCES     := $(shell find src/frugal -type f -not -path '*/__pycache__/*')
# Shipped measurements are drawn beside those of this machine.
REFERENCE   := $(shell find results/records -type f 2>/dev/null)
PAGES       := _config.yml $(shell find book -type f -not -path '*/__pycache__/*')

.DELETE_ON_ERROR:
# Chapters measure time: never two at once.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help book pdf test experiments readme clean

help:  ## List the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  RATIO=0.5         for experiments: one ratio instead of the sweep 0 .. 0.9"
	@echo "  TORCH_INDEX=URL   an extra package index for PyTorch, such as its CPU-only one"

book: $(INSTALLED) _build/html/index.html  ## Run every chapter (quick scale, offline) and build the site in _build/html
	@$(PYTHON) book/build.py report

pdf: book  ## Print the whole book into _build/frugal-diffusion.pdf (needs Chromium)
	@$(PYTHON) book/build.py pdf

test: $(INSTALLED)  ## Run the whole test suite
	$(PYTHON) -m pytest

experiments: $(INSTALLED)  ## Run chapter 5 alone, RATIO=0.5 for one ratio
	$(VENV)/bin/frugal run notebooks/05_experiments.ipynb $(if $(RATIO),-p ratio $(RATIO))

readme: book  ## Write the picture and the tables that open the README, from what `make book` measured
	$(PYTHON) -m frugal.figures.readme

clean:  ## Remove what was built (_build, and the measurements in it; .venv stays)
	rm -rf _build dist

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(PYTHON) || $(PYTHON3) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --no-compile $$(grep '^torch==' constraints.txt) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(PYTHON) -m pip install --quiet --no-compile -c constraints.txt -e '.[book,test]'
	touch $@

_build/notebooks/%.ipynb: notebooks/%.ipynb $(SOURCES) $(REFERENCE) constraints.txt | $(INSTALLED)
	$(PYTHON) book/build.py run $<

_build/html/index.html: $(CHAPTERS) $(PAGES)
	$(PYTHON) book/build.py site
