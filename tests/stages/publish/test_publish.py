"""Publishing an untrained model, and model cards of invented measurements."""

import json
from dataclasses import replace

import pytest
import torch

from spiking_vq.checkpoint.file import fingerprint, load_model, save_model
from spiking_vq.config.load import load_config
from spiking_vq.errors import InputError
from spiking_vq.files import sha256_of
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.zoo import ZOO
from stages.cli.options import preset_file
from stages.publish import cards
from stages.publish.weights import main as publish

SUMMARY = {
    "command": "spiking-vq train gaussian data=digits preset=base seed=0 runs=runs/mine T=2 device=cpu",
    "parameters": 12345,
    "steps": 3,
    "seconds": 90.0,
    "machine": {"device": "cpu", "cpu": "a processor", "cores": 2, "threads": 1, "torch": "2"},
}


@pytest.fixture
def finished(untrained_runs):
    """Runs with a summary each."""
    for model in untrained_runs.rglob("model.safetensors"):
        model.with_name("training.json").write_text(json.dumps(SUMMARY))
    return untrained_runs


@pytest.fixture
def folders(tmp_path):
    return [f"runs={tmp_path / 'runs'}", f"zoo={tmp_path / 'zoo'}", f"results={tmp_path / 'results'}"]


@pytest.fixture
def options(folders):
    return ["data=digits", *folders]


def test_a_published_model_has_its_own_settings(finished, tmp_path, options):
    publish([*options, "stage=gaussian", "sampler=ddpm_large", "sample_steps=4"])
    published = tmp_path / "zoo/digits-base-gaussian.safetensors"
    settings = load(published).sampling()
    assert (settings["sampler"], settings["sample_steps"]) == ("ddpm_large", 4)
    described = json.loads(published.with_suffix(".json").read_text())
    assert described["training"] == {"gaussian": SUMMARY}
    assert described["sha256"] == sha256_of(published)
    assert published.with_suffix(".md").is_file()
    ours, theirs = load_model(published)[0], load_model(finished / "digits/base/gaussian/model.safetensors")[0]
    for name, value in theirs.unet.state_dict().items():
        rounded = value.bfloat16().float() if value.is_floating_point() else value
        assert torch.equal(ours.unet.state_dict()[name], rounded)


def test_a_run_is_one_word(finished, tmp_path, folders):
    for word in ("digits/base", "digits/base/absorbing", "digits/base/absorbing/model.safetensors"):
        publish([str(finished / word), *folders])
        (published,) = (tmp_path / "zoo").glob("*.safetensors")
        assert published.name == "digits-base-absorbing.safetensors"
        published.unlink()


def test_a_stage_1_that_was_taken_over_has_the_summary_of_its_model(finished, tmp_path, folders):
    publish([str(finished / "digits/base"), *folders])
    shipped = tmp_path / "zoo/digits-base-absorbing.json"
    description = json.loads(shipped.read_text())
    description["training"]["vq_svae"]["steps"] = 77
    shipped.write_text(json.dumps(description))
    (finished / "digits/base/vq_svae/training.json").unlink()
    model, config = load_model(shipped.with_suffix(".safetensors"))
    tuned = replace(config, preset="tuned", stage1_sha256=fingerprint(model.vq_svae))
    save_model(finished / "digits/base/absorbing/model.safetensors", model, tuned)
    publish([str(finished / "digits/base"), *folders])
    training = json.loads((tmp_path / "zoo/digits-tuned-absorbing.json").read_text())["training"]
    assert (training["vq_svae"]["steps"], training["absorbing"]) == (77, SUMMARY)
    save_model(finished / "digits/base/absorbing/model.safetensors", model, replace(tuned, stage1_sha256="other"))
    with pytest.raises(InputError, match="no .*vq_svae/training.json: publish from the folder of finished runs"):
        publish([str(finished / "digits/base"), *folders])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["order=random"], "has no order"),
        (["sample_steps=11"], r"in 1\.\.10"),
        (["label=3"], "label must be left out"),
        (["stage=stage2"], "stage must be one of absorbing, gaussian, classifier"),
        (["stage=classifier", "temperature=0.5"], "a classifier does not sample: leave temperature out"),
        (["preset=huge"], "no model file at .*huge"),
        (["ckpt={runs}/digits/base/vq_svae/model.safetensors"], "of one of the stages absorbing"),
    ],
)
def test_impossible_options(finished, tmp_path, options, arguments, message):
    with pytest.raises(InputError, match=message):
        publish([*options, "stage=gaussian", *(text.format(runs=finished) for text in arguments)])
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, r"no .*training\.json"), ('{"steps":', r"training\.json is not a whole report"), ("{}", "another version")],
)
def test_an_unfinished_run_is_not_published_in_part(untrained_runs, tmp_path, options, content, message):
    """Weights without their description must not ship."""
    if content:
        (untrained_runs / "digits/base/gaussian/training.json").write_text(content)
    with pytest.raises(InputError, match=message):
        publish([*options, "stage=gaussian"])
    assert not (tmp_path / "zoo").exists()


def test_cards_show_the_measurements_of_the_very_file(finished, tmp_path, options):
    publish(options)
    published = tmp_path / "zoo/digits-base-absorbing.json"
    description = json.loads(published.read_text())
    sha256 = description["sha256"]
    assert description["stand_in"] is None
    published.write_text(json.dumps(description | {"stand_in": "a stand-in of few images"}))
    spreads = {name: {"mean": 0.25, "std": 0.0125, "per_seed": []} for name in cards.SHOWN}
    evaluation = {"command": "spiking-vq evaluate stage= data=digits ckpt=a/file protocol=test-10k seed=0"}
    evaluation |= {"about": "so many", "sampler": {"sample_steps": 4}}
    evaluation |= {"metrics": spreads, "floor": dict.fromkeys(cards.SHOWN, 0.125), "floor_std": {"kid": 0.005}}
    evaluation |= {"counts": {"generated": 8100, "floor": 90, "reference": 1000}}
    evaluation |= {"memorisation": {"authenticity": 0.9, "authenticity_held_out": 0.6}}

    def fires(rate):
        return {"firing_rate": {"absorbing": {"all": rate, "a layer": 1.0}}}

    energy = {"spiking": {"image": {"arithmetic_pj": 4e6, "memory_pj": 6e6}}}
    reports = {
        "test-10k": evaluation | {"checkpoint": {"sha256": sha256}} | fires(0.0625),
        "val": evaluation | {"checkpoint": {"sha256": "another file's"}} | fires(0.5),
    }
    folder = tmp_path / "results/digits/base"
    folder.mkdir(parents=True)
    for name, report in reports.items():
        (folder / f"{name}.json").write_text(json.dumps(report))
    publish(["only=cards", *options])
    assert json.loads(published.read_text())["measured"].keys() == {"test-10k", "firing_rate"}
    card = published.with_suffix(".md").read_text()
    for words in (
        sha256,
        "| absorbing | 12,345 | 3 | 1.5 | random weights |",
        "Compared were 8,100 generated and 90 real training images, all there are, with 1,000.",
        "| KID x 1000 | 250 ± 12 | 125 ± 5 |",
        "| FID | 0.25 ± 0.013 | 0.125 |",
        "    spiking-vq evaluate digits-base-absorbing protocol=test-10k\n",
        "The data are a stand-in of few images.",
        "Mean firing rate: absorbing 0.062.",
        "Energy: not measured.",
        "codebook_size: ",
    ):
        assert words in card
    assert "## val" not in card
    inspection = {"checkpoint": {"sha256": sha256}, "energy": energy} | fires(0.125)
    (folder / "inspection.json").write_text(json.dumps(inspection))
    unlabelled = reports["test-10k"] | {"metrics": {name: {"mean": 0.75, "std": None} for name in cards.SHOWN}}
    (folder / "test-10k-samples-guidance=0.0.json").write_text(json.dumps(unlabelled))
    publish(["only=cards", *options])
    card = published.with_suffix(".md").read_text()
    assert "Mean firing rate: absorbing 0.125." in card
    assert "| metric | generated images | without labels | floor: real images |" in card
    assert "| KID x 1000 | 250 ± 12 | 750 | 125 ± 5 |" in card
    assert "| authenticity | 0.90 |  | 0.60 |" in card
    assert "4 uJ of arithmetic for an image, 6 uJ of memory accesses (45 nm, nothing reused)." in card
    energy["spiking"]["energy_pj"] = {
        "image": {"fp32": {"weight_stationary": 7e6}, "int8": {"arithmetic": 1e6, "weight_stationary": 5e6}}
    }
    (folder / "inspection.json").write_text(json.dumps(inspection))
    publish(["only=cards", *options])
    card = published.with_suffix(".md").read_text()
    assert "nothing reused); in all, weight-stationary: 7 uJ with 32-bit floats, 5 uJ with 8-bit integers." in card


def test_cards_show_quality_against_calls_of_the_very_file(finished, tmp_path, options):
    publish(options)
    published = tmp_path / "zoo/digits-base-absorbing.json"
    sha256 = json.loads(published.read_text())["sha256"]
    row = {"sample_steps": 4, "network calls": 8, "spiking steps": 24, "confidence": {"mean": 0.9}}
    row |= {"recall": {"mean": 0.25, "std": 0.0125, "per_seed": []}, "classifier distance": {"mean": 1.5}}
    report = {"command": "spiking-vq study calls a/file 'calls=4 8' jobs=2 runs=mine data=digits", "images": 2000}
    report |= {"seeds": 2, "precision": "bf16", "sampler": {"sample_steps": 9}, "rows": [row]}
    file = tmp_path / "results/digits/base/calls.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(report | {"checkpoint": {"sha256": "another file's"}}))
    publish(["only=cards", *options])
    assert "## Speed and quality" not in published.with_suffix(".md").read_text()
    file.write_text(json.dumps(report | {"checkpoint": {"sha256": sha256}}))
    publish(["only=cards", *options])
    assert json.loads(published.read_text())["measured"]["calls"]["rows"] == [row]
    _, section = published.with_suffix(".md").read_text().split("## Speed and quality\n")
    for words in (
        "2,000 generated images against the validation images, seeds: 2, bf16. The model's own `sample_steps` is 9;",
        "| sample_steps | network calls | spiking steps | classifier distance | recall |",
        "| 4 | 8 | 24 | 1.5 | 0.25 ± 0.013 |",
        "    spiking-vq study calls digits-base-absorbing 'calls=4 8' jobs=2\n",
    ):
        assert words in section


def test_cards_need_models(tmp_path, options):
    with pytest.raises(InputError, match="at least one: `spiking-vq publish` puts them there"):
        publish(["only=cards", *options])


def test_commands_from_a_clean_clone(finished, tmp_path, options, absorbing_config):
    """A configuration of a preset is trained by it; any other by the recorded command without folders."""
    publish([*options, "stage=gaussian"])
    card = (tmp_path / "zoo/digits-base-gaussian.md").read_text()
    assert "    spiking-vq train gaussian data=digits T=2\n" in card
    mnist = load_config("vq_svae", preset_file("vq_svae", "base"))
    assert cards.preset_of(mnist).preset == "base"
    cifar10 = load_config("vq_svae", preset_file("vq_svae", "base"), ["data=cifar10"])
    assert cards.preset_of(cifar10).preset == "base"  # with the values of this data set
    assert cards.preset_of(replace(cifar10, data="mnist")) is None
    assert cards.preset_of(replace(mnist, T=5)) is None
    assert cards.preset_of(absorbing_config) is None
    taken_over = {
        (preset, data): cards.stage1_from(load_config("absorbing", preset_file("absorbing", preset), [f"data={data}"]))
        for preset in ("base", "large")
        for data in ("mnist", "kmnist")
    }
    assert taken_over == {
        **{("base", "mnist"): None, ("base", "kmnist"): None},  # kmnist's base starts from mnist's, whose codes differ
        **{("large", "mnist"): "mnist-base", ("large", "kmnist"): "kmnist-base"},
    }


@pytest.mark.parametrize("path", sorted(ZOO.glob("*.md")), ids=lambda path: path.stem)
def test_cards_that_ship_are_current_and_name_files_that_everyone_has(path, tmp_path):
    card, model = path.read_text(), f"{path.stem}.safetensors"
    described = cards.Report.read(path.with_suffix(".json"))
    assert described.get(str, "sha256") == sha256_of(path.with_suffix(".safetensors"))
    assert cards.card(described, load_model(path.with_suffix(".safetensors"))[1]) == card
    commands = [line.strip() for line in card.splitlines() if line.startswith("    spiking-vq")]
    assert commands
    for command in commands:
        assert "runs" not in command
        assert model not in command
    training = [command for command in commands if command.startswith("spiking-vq train")]
    assert all(len(command.split()) == 5 for command in training)  # a preset each, without overrides
