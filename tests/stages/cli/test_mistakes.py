"""A person's mistake gives one clear error, without a traceback, and exit code 2."""

import re

import pytest

SAMPLE, PUBLISH = "sample data=digits runs={runs}", "publish data=digits zoo={tmp}/zoo"
MISTAKES = {
    "unknown stage": ("train stage3 data=digits", r"unknown stage 'stage3': the stages are vq_svae, absorbing"),
    "unknown preset": ("train vq_svae preset=huge", r"no preset 'huge' for stage vq_svae: the presets are .*paper"),
    "nearly a preset": ("train absorbing preset=bas", r"no preset 'bas' for stage absorbing: did you mean base"),
    "unknown key": ("train vq_svae max_steps=3", r"did you mean train\.max_steps"),
    "not key=value": ("train vq_svae max_steps", r"key=value"),
    "wrong type": ("train vq_svae train.lr=fast", r"train\.lr"),
    "wrong T": ("train vq_svae T=0", r"T must be at least 1"),
    "an empty preset is base": ("train vq_svae preset= T=0", r"T must be at least 1"),
    "time without spikes": ("train vq_svae neuron=relu T=4", r"1 with neuron=relu"),
    "time of a classifier": ("train classifier data=digits T=4", r"unknown configuration field 'T'"),
    "unknown data": ("train vq_svae data=svhn", r"mnist, fmnist, kmnist, letters, cifar10, celeba, digits"),
    "missing data": ("train vq_svae data=mnist data_dir={tmp}/none", r"{tmp}/none.*data=digits"),
    "wrong image size": ("train vq_svae data=digits image_size=30 runs={tmp}", r"multiples of 4"),
    "unwritable folder": ("train vq_svae data=digits runs={tmp}/file/runs", r"cannot write.*file/runs"),
    "unknown device": ("train vq_svae device=abacus", r"device=abacus.*cpu"),
    "a million devices": ("train vq_svae train.batch_size=1000000 trainer.devices=1000000", r"devices must be at most"),
    "no stage 1": ("train absorbing data=digits runs={tmp}", r"needs a finished stage 1.*train vq_svae"),
    "no model": ("sample data=digits preset=paper runs={tmp}", r"no trained absorbing model.*train"),
    "named file missing": ("sample ckpt={tmp}/none", r"no model file at"),
    "runs are a file": ("sample runs={tmp}/file", r"no folder {tmp}/file: runs="),
    "not a number": (f"{SAMPLE} temperature=nan", r"temperature must be a finite number; got 'nan'"),
    "negative temperature": (f"{SAMPLE} temperature=-1", r"temperature must be"),
    "too many calls": (f"{SAMPLE} sample_steps=50", r"1\.\.49.*got 50"),
    "no calls": (f"{SAMPLE} sample_steps=0", r"sample_steps must be at least 1; got 0"),
    "unknown order": (f"{SAMPLE} order=spiral", r"bernoulli, random, halton"),
    "foreign setting": (f"{SAMPLE} eta=0.5", r"has no eta"),
    "no such device to sample on": (f"{SAMPLE} device=abacus", r"device=abacus"),
    "too many devices to sample on": (f"{SAMPLE} devices=1000000000000", r"devices must be at most"),
    "unknown precision": (f"{SAMPLE} precision=fp8", r"one of fp32, bf16.*fp8"),
    "no images": (f"{SAMPLE} n=0", r"n must be in 1\.\.2147483647; got 0"),
    "too many images": (f"{SAMPLE} n=1152921504606846976", r"n must be in 1\.\.2147483647"),
    "unwritable samples": (f"{SAMPLE} n=1 out={{tmp}}/file", r"cannot write"),
    "stage-1 file": ("sample {runs}/digits/base/vq_svae/model.safetensors", r"vq_svae model, which cannot generate"),
    "truncated file": ("sample {tmp}/truncated", r"truncated, corrupt"),
    "foreign file": ("sample ckpt={tmp}/file", r"truncated, corrupt or of another format"),
    "unusable default": (f"{PUBLISH} runs={{runs}} order=spiral", r"order must be"),
    "unknown stage to publish": (f"{PUBLISH} runs={{runs}} stage=vq_svae", r"absorbing, gaussian, classifier"),
    "unfinished run": (f"{PUBLISH} runs={{tmp}}", r"no model file"),
    "no classifier": (
        "evaluate data=digits runs={runs} features=classifier results={tmp}/results",
        r"no trained classifier model.*train classifier.*classifier=",
    ),
    "too many bits": ("quantise data=digits runs={runs} bits=9", r"bits must be in 2\.\.8; got 9"),
    "no U-Net": ("quantise data=mnist stage=gaussian", r"unet=sddpm cannot be quantised.*real numbers: stem"),
    "no samples": ("study recognition runs={tmp}", r"samples.*make demo"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gives_one_clear_error_and_exit_code_2(name, runs, tmp_path, command):
    words, message = MISTAKES[name]
    (tmp_path / "file").write_text("a file, not a folder")
    whole = (runs / "digits/base/absorbing/model.safetensors").read_bytes()
    (tmp_path / "truncated").write_bytes(whole[: len(whole) // 2])
    code, _, said = command(*words.format(tmp=tmp_path, runs=runs).split())
    assert code == 2
    assert "Traceback" not in said
    assert re.search(r"^error: .*" + message.replace("{tmp}", str(tmp_path)), said, re.DOTALL | re.MULTILINE), said
