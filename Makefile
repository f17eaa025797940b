# Two commands on a fresh machine: `make demo` and `make test`. Python >= 3.10 and make are all they need.

# A value as one word for the shell, whatever is in it, and `name=value`, or nothing where the value is empty. ARGS is a
# list of words: quote inside it.
q = '$(subst ','\'',$(1))'
o = $(if $(2),$(1)=$(call q,$(2)))
empty :=
space := $(empty) $(empty)

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
INSTALLED := $(subst $(space),\ ,$(VENV))/installed
EXTRA := $(subst $(space),\ ,$(VENV))/extra-

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
EXPORT ?=
KIND ?= sddpm
FILE ?=
T ?=
PROTOCOL ?= test-10k
INCEPTION ?=
ARGS ?=

MODULE := $(call q,$(RUN)) -m
VQ := $(MODULE) stages
FOLDERS := $(call o,data_dir,$(DATA_DIR)) $(call o,runs,$(RUNS))
REAL := $(call o,data_dir,$(DATA_DIR)) $(call o,seed,$(SEED))
TRAIN := $(call o,data,$(DATA)) $(call o,preset,$(PRESET)) $(call o,seed,$(SEED)) $(FOLDERS)
EVALUATE := $(call o,images,$(IMAGES)) $(call o,protocol,$(PROTOCOL)) $(call o,inception,$(INCEPTION))
FIND := $(call o,stage,$(STAGE)) $(call o,data,$(DATA)) $(call o,preset,$(PRESET)) $(call o,runs,$(RUNS)) $(call o,ckpt,$(CKPT))

.DEFAULT_GOAL := help
.PHONY: help install demo stage1 stage2 unet sample app classifier evaluate energy rates spiking-report portrait quantise import export verify-export stream compare all-runs ablation candidates scaling calls decompose analytic labels threshold-sweep bench gpu-check publish cards docs docs-figures test test-all lint format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(call q,$(strip $(MAKEFILE_LIST)))
	@echo "  variables: DATA=mnist|fmnist|kmnist|letters|cifar10|celeba|digits|path/to/folder PRESET=base|large|counts|paper|base-relu|base-quantised|sddpm|fsddim|... PRESETS STAGE SEED N DATA_DIR RUNS CKPT PROTOCOL IMAGES INCEPTION EXPORT KIND FILE T ARGS=\"key=value ...\""

install: $(INSTALLED)  ## create the virtual environment and install the package into it

$(INSTALLED): pyproject.toml
	$(call q,$(PYTHON)) -m venv $(call q,$(VENV))
	$(MODULE) pip install --quiet --upgrade pip
	$(MODULE) pip install --quiet --editable ".[metrics,test]"
	@touch $(call q,$@)

demo: $(INSTALLED)  ## train both stages on scikit-learn's digits, sample, and let a classifier read the samples
	$(VQ) train vq_svae $(DEMO_STAGE1)
	$(VQ) train absorbing $(DEMO_STAGE2)
	$(VQ) sample preset=base data=digits runs=$(call q,$(RUNS)/demo) n=100
	$(VQ) study recognition runs=$(call q,$(RUNS)/demo)

# The digits are 1,437 small images: short runs of smaller networks are enough, with few codes and styles, and without
# waiting for a compiler.
DEMO := data=digits preset=base runs=$(call q,$(RUNS)/demo) train.compile=false precision=fp32
DEMO_STAGE1 := $(DEMO) train.max_steps=300 train.val_every=100 train.batch_size=32 'model.channels=[16,64]' model.codebook_size=128 perceptual.weight=0
DEMO_STAGE2 := $(DEMO) train.max_steps=600 train.val_every=200 model.width=64 styles=4

stage1: $(INSTALLED)  ## train the VQ-SVAE (the same command resumes)
	$(VQ) train vq_svae $(TRAIN) $(ARGS)

stage2: $(INSTALLED)  ## train the denoiser of the frozen stage 1's tokens (the same command resumes)
	$(VQ) train absorbing $(TRAIN) $(ARGS)

unet: $(INSTALLED)  ## train the continuous stage, a spiking U-Net on pixels (the same command resumes)
	$(VQ) train gaussian $(TRAIN) $(ARGS)

sample: $(INSTALLED)  ## generate N images with CKPT, your own run, or else the weights that ship
	$(VQ) sample $(FIND) $(call o,n,$(N)) $(call o,seed,$(SEED)) $(ARGS)

app: $(INSTALLED)  ## open a page to play with CKPT, your own run, or else the weights that ship (Ctrl-C ends it)
	$(VQ) app $(FIND) $(ARGS)

classifier: $(INSTALLED)  ## train the classifier that evaluation uses
	$(VQ) train classifier $(call o,data,$(DATA)) preset=base $(call o,seed,$(SEED)) $(FOLDERS) $(ARGS)

evaluate: $(INSTALLED)  ## FID and more of a model's samples, or of the PNG files in IMAGES, with floors
	$(VQ) evaluate $(FIND) $(EVALUATE) $(REAL) $(ARGS)

portrait: $(INSTALLED)  ## draw a film strip of images being generated, and a raster of the spikes
	$(VQ) inspect $(FIND) $(REAL) only=portrait $(ARGS)

quantise: $(INSTALLED)  ## round the weights of a trained model to integers of 8 bits (ARGS="bits=4" for fewer)
	$(VQ) quantise $(FIND) $(ARGS)

import: $(INSTALLED)  ## turn the authors' checkpoint FILE into a model: KIND=sddpm, fsddim or spiking-diffusion, and T
	$(VQ) import $(call q,$(KIND)) $(call o,file,$(FILE)) $(call o,T,$(T)) $(call o,data,$(DATA)) $(call o,runs,$(RUNS)) $(ARGS)

export: $(INSTALLED)  ## export a model to NIR, or with ARGS="to=onnx" or "to=pt2"; ARGS="form=feedback" for snnTorch, Norse
	$(VQ) export $(FIND) $(ARGS)

verify-export: $(INSTALLED)  ## check the export of DATA and PRESET, or the one in EXPORT, spike for spike
	$(VQ) verify $(call q,$(or $(EXPORT),$(RUNS)/$(DATA)/$(PRESET)/export/nir)) $(ARGS)

stream: $(INSTALLED)  ## write the spikes of one image being made, as address events (NIR's data format)
	$(VQ) stream $(FIND) $(call o,seed,$(SEED)) $(ARGS)

compare: $(INSTALLED)  ## tables of all measurements: results/comparison.md, .csv and report.html
	$(VQ) compare $(ARGS)

all-runs: $(INSTALLED)  ## train and measure DATA="mnist fmnist" PRESETS="base gaussian-base" (the same command resumes)
	$(VQ) study grid $(call o,data,$(DATA)) $(call o,presets,$(PRESETS)) $(call o,seed,$(SEED)) $(FOLDERS) $(ARGS)

ablation: $(INSTALLED)  ## ablation of stage 1: every encoding and spike generator (the same command resumes)
	$(VQ) study encodings $(call o,data,$(DATA)) $(FOLDERS) $(ARGS)

candidates: $(INSTALLED)  ## compare base with the candidates in configs/studies, of STAGE=vq_svae, absorbing or sampler
	$(VQ) study candidates $(call o,stage,$(STAGE)) $(call o,data,$(DATA)) $(call o,ckpt,$(CKPT)) $(FOLDERS) $(ARGS)

scaling: $(INSTALLED)  ## compare designs of codes at equal training time, on DATA (the same command resumes)
	$(VQ) study scaling $(call o,data,$(DATA)) $(FOLDERS) $(ARGS)

calls: $(INSTALLED)  ## quality against network calls: 4, 8, 16 and 32
	$(VQ) study calls $(FIND) $(call o,data_dir,$(DATA_DIR)) $(ARGS)

decompose: $(INSTALLED)  ## measure where quality is lost: reconstructions, one token per call, fewer calls
	$(VQ) study decomposition $(FIND) $(REAL) $(ARGS)

energy: $(INSTALLED)  ## operations, memory accesses and picojoules of an image, with those of the twins without spikes
	$(VQ) inspect $(FIND) $(REAL) only=report $(ARGS)

rates: $(INSTALLED)  ## firing rate of every layer (the same report as energy)
	$(VQ) inspect $(FIND) $(REAL) only=report $(ARGS)

spiking-report: $(INSTALLED)  ## all synapses that are fed by anything but spikes (the same report as energy)
	$(VQ) inspect $(FIND) $(REAL) only=report $(ARGS)

analytic: $(INSTALLED)  ## measure the errors that sampler=analytic needs, into the model's file
	$(VQ) study analytic $(FIND) $(REAL) $(ARGS)

labels: $(INSTALLED)  ## let a classifier read images of each label by a class-conditional model
	$(VQ) study labels $(FIND) $(REAL) $(ARGS)

threshold-sweep: $(INSTALLED)  ## sample with all firing thresholds shifted (threshold guidance), over several seeds
	$(VQ) study thresholds $(FIND) $(call o,data_dir,$(DATA_DIR)) $(ARGS)

bench: $(EXTRA)bench  ## compare speed and memory with SpikingJelly (Python >= 3.11)
	$(VQ) bench $(ARGS)

gpu-check: $(INSTALLED)  ## check a GPU: tests on it, its numbers against the CPU's, speed of training steps
	$(VQ) gpu-check $(ARGS)

$(EXTRA)%: $(INSTALLED)
	$(MODULE) pip install --quiet --editable ".[$*]"
	@touch $(call q,$@)

publish: $(INSTALLED)  ## copy your run to the weights that ship (bf16, at most 12 MB)
	$(VQ) publish $(call o,stage,$(STAGE)) $(call o,data,$(DATA)) $(call o,preset,$(PRESET)) $(FOLDERS) $(ARGS)

cards: $(INSTALLED)  ## write the model cards of the weights that ship, from the reports in results/
	$(VQ) publish only=cards $(ARGS)

docs: $(EXTRA)docs  ## build the documentation as a site; a broken link is an error
	$(MODULE) mkdocs build --strict

docs-figures: $(INSTALLED)  ## render the tables of README.md and docs/ from the reports in results/
	$(VQ) compare $(call o,documents,$(wildcard README.md docs/*.md)) $(ARGS)

test: $(INSTALLED)  ## run the tests without the slow ones: no data, no GPU, a few minutes on two cores
	OMP_NUM_THREADS=1 $(MODULE) pytest -n 2 -m "not slow"

test-all: $(INSTALLED)  ## run all tests
	OMP_NUM_THREADS=1 $(MODULE) pytest -n 2

lint: $(INSTALLED)  ## check style and formatting
	$(MODULE) ruff check .
	$(MODULE) ruff format --check .

format: $(INSTALLED)  ## format the code
	$(MODULE) ruff check --fix .
	$(MODULE) ruff format .

clean:  ## remove the virtual environment that `make install` made, and caches; runs and data stay
	if [ -f $(call q,$(VENV)/installed) ]; then rm -rf -- $(call q,$(VENV)); fi
	rm -rf .pytest_cache .ruff_cache
