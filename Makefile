# Two commands on a fresh machine: `make demo` and `make test`. Python >= 3.10 and make are all they need.

# A value as one word for the shell, whatever is in it. ARGS is a list of words: quote inside it.
q = '$(subst ','\'',$(1))'
empty :=
space := $(empty) $(empty)

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
INSTALLED := $(subst $(space),\ ,$(VENV))/installed
BENCH := $(subst $(space),\ ,$(VENV))/bench

DATA ?= mnist
PRESET ?= base
PRESETS ?= base
SEED ?= 0
N ?= 64
DATA_DIR ?= data
RUNS ?= runs
STAGE ?=
CKPT ?=
IMAGES ?=
PROTOCOL ?= test-10k
INCEPTION ?=
ARGS ?=

MODULE := $(call q,$(RUN)) -m
PLACES := data_dir=$(call q,$(DATA_DIR)) runs=$(call q,$(RUNS))
REAL := data_dir=$(call q,$(DATA_DIR)) seed=$(call q,$(SEED))
TRAIN := data=$(call q,$(DATA)) preset=$(call q,$(PRESET)) seed=$(call q,$(SEED)) $(PLACES)
EVALUATE := images=$(call q,$(IMAGES)) protocol=$(call q,$(PROTOCOL)) inception=$(call q,$(INCEPTION))
FIND := stage=$(call q,$(STAGE)) data=$(call q,$(DATA)) preset=$(call q,$(PRESET)) runs=$(call q,$(RUNS)) ckpt=$(call q,$(CKPT))

.DEFAULT_GOAL := help
.PHONY: help install demo stage1 stage2 unet sample classifier evaluate energy rates spiking-report portrait compare all-runs ablation candidates decompose analytic labels threshold-sweep bench publish cards test lint format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(call q,$(strip $(MAKEFILE_LIST)))
	@echo "  variables: DATA=mnist|fmnist|kmnist|letters|cifar10|digits PRESET=base|base-relu|base-quantised|paper|sddpm|fsddim PRESETS STAGE SEED N DATA_DIR RUNS CKPT PROTOCOL IMAGES INCEPTION ARGS=\"key=value ...\""

install: $(INSTALLED)  ## create the virtual environment and install the package into it

$(INSTALLED): pyproject.toml
	$(call q,$(PYTHON)) -m venv $(call q,$(VENV))
	$(MODULE) pip install --quiet --upgrade pip
	$(MODULE) pip install --quiet --editable ".[metrics,test]"
	@touch $(call q,$@)

demo: $(INSTALLED)  ## both stages on scikit-learn's digits, samples, and a classifier that reads them
	$(MODULE) stages train vq_svae $(DEMO_STAGE1)
	$(MODULE) stages train absorbing $(DEMO_STAGE2)
	$(MODULE) stages sample preset=base data=digits runs=$(call q,$(RUNS)/demo) n=100
	$(MODULE) stages study recognition runs=$(call q,$(RUNS)/demo)

# The digits are 1,437 small images: short runs, few codes and styles are enough, of smaller networks, without waiting
# for a compiler.
DEMO := data=digits preset=base runs=$(call q,$(RUNS)/demo) train.compile=false precision=fp32
DEMO_STAGE1 := $(DEMO) train.max_steps=300 train.val_every=100 train.batch_size=32 'model.channels=[16,64]' model.codebook_size=128 perceptual.weight=0
DEMO_STAGE2 := $(DEMO) train.max_steps=600 train.val_every=200 model.width=64 styles=4

stage1: $(INSTALLED)  ## train the VQ-SVAE (the same command resumes)
	$(MODULE) stages train vq_svae $(TRAIN) $(ARGS)

stage2: $(INSTALLED)  ## train the denoiser on the frozen stage 1's tokens (the same command resumes)
	$(MODULE) stages train absorbing $(TRAIN) $(ARGS)

unet: $(INSTALLED)  ## train the continuous stage, a spiking U-Net on images (the same command resumes)
	$(MODULE) stages train gaussian $(TRAIN) $(ARGS)

sample: $(INSTALLED)  ## generate N images with CKPT, else your own run, else the weights that ship
	$(MODULE) stages sample $(FIND) n=$(call q,$(N)) seed=$(call q,$(SEED)) $(ARGS)

classifier: $(INSTALLED)  ## train a classifier of the real images, which evaluation uses
	$(MODULE) stages train classifier data=$(call q,$(DATA)) preset=base seed=$(call q,$(SEED)) $(PLACES) $(ARGS)

evaluate: $(INSTALLED)  ## FID and much else of CKPT's samples or of the PNGs in IMAGES, beside the floor
	$(MODULE) stages evaluate $(FIND) $(EVALUATE) $(REAL) $(ARGS)

portrait: $(INSTALLED)  ## a film strip of images emerging, and a raster of the spikes
	$(MODULE) stages inspect portrait $(FIND) seed=$(call q,$(SEED)) $(ARGS)

compare: $(INSTALLED)  ## all measurements side by side: results/comparison.md, .csv and report.html
	$(MODULE) stages compare $(ARGS)

all-runs: $(INSTALLED)  ## train and measure DATA="mnist fmnist" PRESETS="base gaussian-base", going on where it stopped
	$(MODULE) stages study grid data=$(call q,$(DATA)) presets=$(call q,$(PRESETS)) seed=$(call q,$(SEED)) $(PLACES) $(ARGS)

ablation: $(INSTALLED)  ## stage 1 with every encoding and spike generator, three seeds each, going on where it stopped
	$(MODULE) stages study encodings data=$(call q,$(DATA)) $(PLACES) $(ARGS)

candidates: $(INSTALLED)  ## base with each of the changes in configs/candidates.yaml, of STAGE=vq_svae, absorbing or sampler
	$(MODULE) stages study candidates stage=$(call q,$(STAGE)) data=$(call q,$(DATA)) ckpt=$(call q,$(CKPT)) $(PLACES) $(ARGS)

decompose: $(INSTALLED)  ## where quality is lost: real images, reconstructions, one token a call, fewer calls
	$(MODULE) stages study decomposition $(FIND) $(REAL) $(ARGS)

energy: $(INSTALLED)  ## operations, memory traffic and picojoules of an image, beside the twin without spikes
	$(MODULE) stages inspect energy $(FIND) seed=$(call q,$(SEED)) $(ARGS)

rates: $(INSTALLED)  ## mean firing rate of every layer
	$(MODULE) stages inspect rates $(FIND) $(REAL) $(ARGS)

spiking-report: $(INSTALLED)  ## every synapse that is fed by something else than spikes
	$(MODULE) stages inspect purity $(FIND) $(REAL) $(ARGS)

analytic: $(INSTALLED)  ## measure what sampler=analytic needs, into the model's file
	$(MODULE) stages study analytic $(FIND) $(REAL) $(ARGS)

labels: $(INSTALLED)  ## ask a network trained with ARGS=conditional=true for every label; the classifier reads what comes
	$(MODULE) stages study labels $(FIND) $(REAL) $(ARGS)

threshold-sweep: $(INSTALLED)  ## samples with all firing thresholds shifted: mean and spread over seeds
	$(MODULE) stages study thresholds $(FIND) data_dir=$(call q,$(DATA_DIR)) $(ARGS)

bench: $(BENCH)  ## speed and memory against the plain form on SpikingJelly (Python >= 3.11)
	$(MODULE) stages bench $(ARGS)

$(BENCH): $(INSTALLED)
	$(MODULE) pip install --quiet --editable ".[bench]"
	@touch $(call q,$@)

publish: $(INSTALLED)  ## put your run among the weights that ship (bf16, at most 6 MB)
	$(MODULE) stages publish weights stage=$(call q,$(STAGE)) data=$(call q,$(DATA)) preset=$(call q,$(PRESET)) $(PLACES) $(ARGS)

cards: $(INSTALLED)  ## model cards of the weights that ship, with what results/ holds on them
	$(MODULE) stages publish cards $(ARGS)

test: $(INSTALLED)  ## run the tests: no data, no GPU, a few minutes
	$(MODULE) pytest

lint: $(INSTALLED)  ## check style and formatting
	$(MODULE) ruff check .
	$(MODULE) ruff format --check .

format: $(INSTALLED)  ## format the code
	$(MODULE) ruff check --fix .
	$(MODULE) ruff format .

clean:  ## remove the virtual environment that `make install` made, and caches; runs and data stay
	if [ -f $(call q,$(VENV)/installed) ]; then rm -rf -- $(call q,$(VENV)); fi
	rm -rf .pytest_cache .ruff_cache
