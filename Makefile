# Two commands on a fresh machine: `make demo` and `make test`. Python >= 3.10 and make are all they need.

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

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

TRAIN := data=$(DATA) preset=$(PRESET) seed=$(SEED) data_dir=$(DATA_DIR) runs=$(RUNS)
EVALUATE := images=$(IMAGES) protocol=$(PROTOCOL) inception=$(INCEPTION)
FIND := stage=$(STAGE) data=$(DATA) preset=$(PRESET) runs=$(RUNS) ckpt=$(CKPT)

.DEFAULT_GOAL := help
.PHONY: help install demo stage1 stage2 unet sample classifier evaluate energy rates spiking-report portrait compare all-runs ablation candidates decompose analytic labels threshold-sweep bench publish cards test lint format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: DATA=mnist|fmnist|kmnist|letters|cifar10|digits PRESET=base|base-relu|base-quantised|paper|sddpm|fsddim PRESETS STAGE SEED N DATA_DIR RUNS CKPT PROTOCOL IMAGES INCEPTION ARGS=\"key=value ...\""

install: $(VENV)/installed  ## create the virtual environment and install the package into it

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable ".[metrics,test]"
	@touch $@

demo: $(VENV)/installed  ## both stages on scikit-learn's digits, samples, and a classifier that reads them
	$(RUN) -m stages.train vq_svae $(DEMO_STAGE1)
	$(RUN) -m stages.train absorbing $(DEMO_STAGE2)
	$(RUN) -m stages.sample preset=base data=digits runs=$(RUNS)/demo n=100
	$(RUN) -m stages.recognise runs=$(RUNS)/demo

# The digits are 1,437 small images: short runs, few codes and styles are enough, of smaller networks, without waiting
# for a compiler.
DEMO := data=digits preset=base runs=$(RUNS)/demo train.compile=false precision=fp32
DEMO_STAGE1 := $(DEMO) train.max_steps=300 train.val_every=100 train.batch_size=32 model.channels=[16,64] model.codebook_size=128 perceptual.weight=0
DEMO_STAGE2 := $(DEMO) train.max_steps=600 train.val_every=200 model.width=64 styles=4

stage1: $(VENV)/installed  ## train the VQ-SVAE (the same command resumes)
	$(RUN) -m stages.train vq_svae $(TRAIN) $(ARGS)

stage2: $(VENV)/installed  ## train the denoiser on the frozen stage 1's tokens (the same command resumes)
	$(RUN) -m stages.train absorbing $(TRAIN) $(ARGS)

unet: $(VENV)/installed  ## train the continuous stage, a spiking U-Net on images (the same command resumes)
	$(RUN) -m stages.train gaussian $(TRAIN) $(ARGS)

sample: $(VENV)/installed  ## generate N images with CKPT, else your own run, else the weights that ship
	$(RUN) -m stages.sample $(FIND) n=$(N) seed=$(SEED) $(ARGS)

classifier: $(VENV)/installed  ## train a classifier of the real images, which evaluation uses
	$(RUN) -m stages.train classifier data=$(DATA) preset=base seed=$(SEED) data_dir=$(DATA_DIR) runs=$(RUNS) $(ARGS)

evaluate: $(VENV)/installed  ## FID and much else of CKPT's samples or of the PNGs in IMAGES, beside the floor
	$(RUN) -m stages.evaluate $(FIND) $(EVALUATE) data_dir=$(DATA_DIR) seed=$(SEED) $(ARGS)

portrait: $(VENV)/installed  ## a film strip of images emerging, and a raster of the spikes
	$(RUN) -m stages.portrait $(FIND) seed=$(SEED) $(ARGS)

compare: $(VENV)/installed  ## all measurements side by side: results/comparison.md, .csv and report.html
	$(RUN) -m stages.compare $(ARGS)

all-runs: $(VENV)/installed  ## train and measure DATA="mnist fmnist" PRESETS="base gaussian-base", going on where it stopped
	$(RUN) -m stages.all_runs data="$(DATA)" presets="$(PRESETS)" seed=$(SEED) data_dir=$(DATA_DIR) runs=$(RUNS) $(ARGS)

ablation: $(VENV)/installed  ## stage 1 with every encoding and spike generator, three seeds each, going on where it stopped
	$(RUN) -m stages.ablation data=$(DATA) data_dir=$(DATA_DIR) runs=$(RUNS) $(ARGS)

candidates: $(VENV)/installed  ## base with each of the changes in configs/candidates.yaml, of STAGE=vq_svae, absorbing or sampler
	$(RUN) -m stages.candidates stage=$(STAGE) data=$(DATA) ckpt=$(CKPT) data_dir=$(DATA_DIR) runs=$(RUNS) $(ARGS)

decompose: $(VENV)/installed  ## where quality is lost: real images, reconstructions, one token a call, fewer calls
	$(RUN) -m stages.decompose $(FIND) data_dir=$(DATA_DIR) seed=$(SEED) $(ARGS)

energy: $(VENV)/installed  ## operations, memory traffic and picojoules of an image, beside the twin without spikes
	$(RUN) -m stages.energy $(FIND) seed=$(SEED) $(ARGS)

rates: $(VENV)/installed  ## mean firing rate of every layer
	$(RUN) -m stages.firing_rates $(FIND) data_dir=$(DATA_DIR) seed=$(SEED) $(ARGS)

spiking-report: $(VENV)/installed  ## every synapse that is fed by something else than spikes
	$(RUN) -m stages.spiking_report $(FIND) data_dir=$(DATA_DIR) seed=$(SEED) $(ARGS)

analytic: $(VENV)/installed  ## measure what sampler=analytic needs, into the model's file
	$(RUN) -m stages.analytic $(FIND) data_dir=$(DATA_DIR) seed=$(SEED) $(ARGS)

labels: $(VENV)/installed  ## ask a network trained with ARGS=conditional=true for every label; the classifier reads what comes
	$(RUN) -m stages.labels $(FIND) data_dir=$(DATA_DIR) seed=$(SEED) $(ARGS)

threshold-sweep: $(VENV)/installed  ## samples with all firing thresholds shifted: mean and spread over seeds
	$(RUN) -m stages.threshold_sweep $(FIND) data_dir=$(DATA_DIR) $(ARGS)

bench: $(VENV)/bench  ## speed and memory against the plain form on SpikingJelly (Python >= 3.11)
	$(RUN) -m stages.bench $(ARGS)

$(VENV)/bench: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable ".[bench]"
	@touch $@

publish: $(VENV)/installed  ## put your run among the weights that ship (bf16, at most 6 MB)
	$(RUN) -m stages.publish stage=$(STAGE) data=$(DATA) preset=$(PRESET) data_dir=$(DATA_DIR) runs=$(RUNS) $(ARGS)

cards: $(VENV)/installed  ## model cards of the weights that ship, with what results/ holds on them
	$(RUN) -m stages.cards $(ARGS)

test: $(VENV)/installed  ## run the tests: no data, no GPU, a few minutes
	$(RUN) -m pytest

lint: $(VENV)/installed  ## check style and formatting
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(VENV)/installed  ## format the code
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:  ## remove the virtual environment and caches; runs and data stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
