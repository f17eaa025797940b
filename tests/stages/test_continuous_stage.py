"""The commands on models of the continuous stage, untrained: sampling, watching, counting, sweeping."""

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image

from spiking_vq.checkpoint.build import build_classifier, build_model
from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.config.schema import ClassifierConfig, ClassifierOptions, TrainOptions
from spiking_vq.errors import InputError
from spiking_vq.models.fsddim import PostSumBlock
from spiking_vq.models.sddpm import PreSpikeBlock
from spiking_vq.neurons.lif import LIF
from spiking_vq.pipelines.load import load
from spiking_vq.pipelines.pixel import PixelPipeline
from stages import sample
from stages.evaluate import report as evaluate
from stages.inspect import energy, portrait
from stages.inspect import purity as spiking_report
from stages.inspect import rates as firing_rates
from stages.publish import weights as publish
from stages.study import analytic, labels
from stages.study import grid as all_runs
from stages.study import thresholds as threshold_sweep


@pytest.fixture
def runs(tmp_path, gaussian_config, pixel_model, latent_model, absorbing_config):
    """An untrained model of each stage on the digits, and a classifier."""
    place = {"data": "digits", "preset": "base", "image_size": 12}
    runs = tmp_path / "runs"
    judge = ClassifierConfig(
        **place, image_shape=[1, 12, 12], num_classes=10, train=TrainOptions(max_steps=1), model=ClassifierOptions([4])
    )
    stage1 = replace(absorbing_config.vq_svae, **place)
    models = {
        "gaussian": (pixel_model, replace(gaussian_config, **place)),
        "vq_svae": (latent_model.vq_svae, stage1),
        "absorbing": (latent_model, replace(absorbing_config, **place, vq_svae=stage1)),
        "classifier": (build_classifier(judge), judge),
    }
    for stage, (model, config) in models.items():
        save_model(runs / f"digits/base/{stage}/model.safetensors", model, config)
    return runs


def places(tmp_path, *names):
    return ["data=digits", *(f"{name}={tmp_path / name}" for name in names)]


def read(tmp_path, name, folder="gaussian-base"):
    return json.loads((tmp_path / "results/digits" / folder / name).read_text())


def test_sample_looks_the_same_from_outside(runs, tmp_path):
    sample.main(["stage=gaussian", *places(tmp_path, "runs"), "n=3", "sample_steps=2", "label=7", "guidance=1.5"])
    out = runs / "digits/base/gaussian-samples"
    assert {path.name for path in out.iterdir()} == {"grid.png", "images"}
    assert len(list((out / "images").iterdir())) == 3
    with pytest.raises(InputError, match="has no order"):
        sample.main(["stage=gaussian", *places(tmp_path, "runs"), "order=random"])
    with pytest.raises(InputError, match="stage must be one of"):
        sample.main(["stage=unet", *places(tmp_path, "runs")])


def test_evaluation(runs, tmp_path):
    few = ["protocol=val", "features=classifier", "n=20", "sample_steps=2", "stage=gaussian"]
    evaluate.main([*places(tmp_path, "runs", "results", "data_dir"), *few])
    report = read(tmp_path, "val-classifier-n=20-sample_steps=2.json")
    assert report["T"] == {"unet": 2}
    assert report["network_calls"] == 2
    assert report["metrics"]["classifier_distance"]["mean"] > report["floor"]["classifier_distance"]
    assert set(report["firing_rate"]) == {"gaussian"}
    assert not {"likelihood", "reconstruction", "stage1"} & set(report)
    model, _ = load_model(runs / "digits/base/gaussian/model.safetensors")
    assert report["parameters"] == {"unet": sum(weight.numel() for weight in model.unet.parameters())}
    evaluate.main([*places(tmp_path, "runs", "results", "data_dir"), *few, "label=1", "guidance=2"])
    guided = read(tmp_path, "val-classifier-n=20-sample_steps=2-label=1-guidance=2.0.json")
    assert guided["network_calls"] == 4  # with the label and without
    assert guided["network_steps"] == 4 * guided["T"]["unet"]


def test_evaluation_takes_no_model_for_another(runs, tmp_path):
    arguments = [*places(tmp_path, "runs", "results", "data_dir"), "protocol=val", "features=classifier", "n=20"]
    named = f"ckpt={runs / 'digits/base/gaussian/model.safetensors'}"
    with pytest.raises(InputError, match="trained with stage=gaussian, not stage=absorbing: give stage=gaussian"):
        evaluate.main([*arguments, named])
    with pytest.raises(InputError, match="is a gaussian model, which has no stage 1"):
        evaluate.main([*arguments, named, "only=reconstruction"])
    with pytest.raises(InputError, match="only must be all or samples"):
        evaluate.main([*arguments, "stage=gaussian", "only=reconstruction"])
    assert not list((tmp_path / "results").rglob("*.json"))


def test_portrait_of_a_label(runs, tmp_path, absorbing_config):
    portrait.main(["stage=gaussian", *places(tmp_path, "runs", "results"), "n=1", "sample_steps=2", "label=3"])
    config = replace(absorbing_config, data="digits", preset="base", conditional=True, num_classes=10)
    config.vq_svae = replace(config.vq_svae, data="digits", preset="base")
    save_model(tmp_path / "model.safetensors", build_model(config), config)
    named = [f"ckpt={tmp_path / 'model.safetensors'}", f"results={tmp_path / 'results'}"]
    portrait.main([*named, "n=1", "label=3", "guidance=2"])
    assert (tmp_path / "results/digits/base/filmstrip.png").is_file()


def test_portrait_and_rates(runs, tmp_path):
    folder = tmp_path / "results/digits/gaussian-base"
    portrait.main(["stage=gaussian", *places(tmp_path, "runs", "results"), "n=2", "sample_steps=5"])
    for name in ("filmstrip", "raster"):
        assert Image.open(folder / f"{name}.png").size[0] > 100
    generator = load(runs / "digits/base/gaussian/model.safetensors")
    frames = portrait.pixel_film(generator, 7, generator.sampling(sample_steps=5))
    assert frames.shape == (portrait.FRAMES, 1, 12, 12)
    assert torch.equal(frames[-1:], portrait.to_uint8(generator.make_alone(7, **generator.sampling(sample_steps=5))))
    firing_rates.main(["stage=gaussian", *places(tmp_path, "runs", "results", "data_dir"), "n=64"])
    report = read(tmp_path, "firing_rates.json")
    assert report["T"] == {"unet": 2}
    assert 0 < report["firing_rate"]["gaussian"]["all"] < 1


def test_energy_grows_with_the_calls(runs, tmp_path):
    reports = {}
    for steps in (2, 4):
        energy.main(["stage=gaussian", *places(tmp_path, "runs", "results"), "n=1", f"sample_steps={steps}"])
        reports[steps] = read(tmp_path, "energy.json")
        assert reports[steps]["spiking"]["calls"] == reports[steps]["relu"]["calls"] == steps
        assert reports[steps]["spiking"]["decoder"]["accumulates"] == 0
    few, many = (reports[steps]["relu"]["image"]["arithmetic_pj"] for steps in (2, 4))
    assert many == pytest.approx(2 * few)  # without spikes every call costs the same
    few, many = (reports[steps]["spiking"]["image"]["arithmetic_pj"] for steps in (2, 4))
    assert 1.3 * few < many < 3 * few
    assert {"relu", "quantised"} == set(reports[2]["verdict"])


def test_energy_of_the_analytic_sampler(runs, tmp_path):
    analytic.main([*places(tmp_path, "runs", "data_dir"), "times=4", "n=8"])
    arguments = ["stage=gaussian", *places(tmp_path, "runs", "results"), "n=1", "sample_steps=2"]
    energy.main([*arguments, "sampler=analytic"])
    assert read(tmp_path, "energy.json")["sampler"]["sampler"] == "analytic"


@pytest.mark.parametrize("kind", [PreSpikeBlock, PostSumBlock])
def test_sums_of_a_block_are_counted(kind):
    threshold = (1.0,) if kind is PostSumBlock else ()
    block = kind(LIF, *threshold, 2, 3, 4).eval()
    time = torch.zeros(1, 4) if kind is PreSpikeBlock else torch.zeros(2, 1, 4)
    with energy.count_operations(torch.nn.ModuleDict({"block": block})) as costs:
        block(torch.ones(2, 1, 2, 5, 5), time)
    assert costs["block"].accumulates == 2 * (2 * 3 * 5 * 5)  # the time's current, and the two arms


def test_averages_and_scales_are_counted():
    pool, lif = torch.nn.AvgPool2d(2), LIF(beta=1.0, num_scales=3)
    with energy.count_operations(torch.nn.ModuleDict({"pool": pool, "lif": lif})) as costs, torch.no_grad():
        pool(torch.ones(1, 2, 4, 4))
        lif(torch.ones(3, 1, 5))
    assert (costs["pool"].accumulates, costs["pool"].multiplies) == (32, 8)
    assert (costs["lif"].accumulates, costs["lif"].multiplies) == (15, 15)


@pytest.mark.parametrize("stage", ["vq_svae", "absorbing", "gaussian"])
def test_spiking_report_names_what_sees_real_numbers(runs, tmp_path, stage):
    steps = [] if stage == "vq_svae" else ["sample_steps=2"]
    spiking_report.main([f"stage={stage}", *places(tmp_path, "runs", "results", "data_dir"), "n=2", *steps])
    name = "spiking_report-vq_svae.json" if stage == "vq_svae" else "spiking_report.json"
    report = read(tmp_path, name, "gaussian-base" if stage == "gaussian" else "base")
    real = set(report["real_valued"])
    assert report["synapses"] > len(real)
    shares = [layer["share_of_operations"] for layer in report["real_valued"].values()]
    assert 0 <= sum(shares) < 1
    if stage == "absorbing":  # vectors of the codebook are real; all else that generates is fed by spikes
        assert real == {"vq_svae.spike_generator.current.0"}
    elif stage == "vq_svae":
        assert "stem.0" in real
    else:
        assert {"unet.stem.0", "unet.time.0", "unet.head"} <= real
        assert report["verdict"].startswith("Not purely spiking")


def test_purely_spiking_is_said_of_nothing_else():
    assert spiking_report.verdict(7, 0, 0.0) == "Purely spiking: all 7 synapses are fed by 0 and 1 only."
    assert "2 of 7 synapses are fed by real numbers, 12.5%" in spiking_report.verdict(7, 2, 0.125)


def test_what_the_analytic_sampler_needs_travels_with_the_weights(runs, tmp_path, monkeypatch):
    path = runs / "digits/base/gaussian/model.safetensors"
    before = {name: value.clone() for name, value in load_model(path)[0].unet.state_dict().items()}
    with pytest.raises(InputError, match="make analytic"):
        load(path).sample(1, sampler="analytic")
    analytic.main([*places(tmp_path, "runs", "data_dir"), "times=4", "n=8"])
    generator = load(path)
    assert generator.model.image_error.shape == (11,)
    assert generator.model.image_error.isfinite().all()
    assert generator.sample(1, sampler="analytic", sample_steps=5).images.shape == (1, 1, 12, 12)
    for name, value in generator.model.unet.state_dict().items():
        assert torch.equal(value, before[name])
    monkeypatch.setattr(analytic, "ZOO", path.parent)
    with pytest.raises(InputError, match="what ships is not changed"):
        analytic.main([*places(tmp_path, "runs", "data_dir")])


def test_analytic_is_for_images(runs, tmp_path, gaussian_config):
    gaussian_config.data, gaussian_config.model.unet = "digits", "fsddim"
    gaussian_config.diffusion.loss = "synaptic_current"
    save_model(tmp_path / "model.safetensors", build_model(gaussian_config), gaussian_config)
    with pytest.raises(InputError, match="currents are sampled by ddim"):
        analytic.main([f"ckpt={tmp_path / 'model.safetensors'}"])


def test_a_published_model_has_its_own_settings(runs, tmp_path):
    (runs / "digits/base/gaussian/training.json").write_text('{"steps": 3}')
    zoo = f"zoo={tmp_path / 'zoo'}"
    publish.main([*places(tmp_path, "runs"), zoo, "stage=gaussian", "sampler=ddpm_large", "sample_steps=4"])
    settings = load(tmp_path / "zoo/digits-base-gaussian.safetensors").sampling()
    assert (settings["sampler"], settings["sample_steps"]) == ("ddpm_large", 4)
    assert json.loads((tmp_path / "zoo/digits-base-gaussian.json").read_text())["training"] == {
        "gaussian": {"steps": 3}
    }
    for wrong, told in (("order=random", "has no order"), ("sample_steps=11", r"in 1\.\.10")):
        with pytest.raises(InputError, match=told):
            publish.main([*places(tmp_path, "runs"), zoo, "stage=gaussian", wrong])


def test_a_run_that_is_not_whole_is_not_published_in_part(runs, tmp_path):
    """A file of weights without its description would be one that ships, and says nothing of itself."""
    arguments = [*places(tmp_path, "runs"), f"zoo={tmp_path / 'zoo'}", "stage=gaussian"]
    for content, told in ((None, r"no .*training\.json"), ('{"steps":', r"training\.json is not a whole report")):
        if content:
            (runs / "digits/base/gaussian/training.json").write_text(content)
        with pytest.raises(InputError, match=told):
            publish.main(arguments)
        assert not (tmp_path / "zoo").exists()


def test_all_runs_takes_presets_of_both_pipelines(tmp_path):
    options = all_runs.OPTIONS | {"presets": "gaussian-base", "protocols": "val", "results": str(tmp_path)}
    steps = [step for step in all_runs.steps("mnist", options) if "classifier" not in step.arguments]
    modules = [step.command for step in steps]
    assert modules == ["train", "evaluate", "energy", "portrait"]
    assert steps[0].arguments[:3] == ["gaussian", "data=mnist", "preset=base"]
    assert all("stage=gaussian" in step.arguments for step in steps[1:])
    assert steps[1].leaves == tmp_path / "mnist/gaussian-base/val.json"


WATCHING = {
    "energy": (energy, "energy.json", ["n=1"]),
    "firing_rates": (firing_rates, "firing_rates.json", ["n=64", "data_dir=data"]),
    "spiking_report": (spiking_report, "spiking_report.json", ["n=1", "data_dir=data"]),
    "threshold_sweep": (threshold_sweep, "threshold_sweep.json", ["n=10", "seeds=2", "data_dir=data"]),
    "labels": (labels, "labels.json", ["n=1", "data_dir=data"]),
    "portrait": (portrait, "filmstrip.png", ["n=1"]),
}


@pytest.mark.parametrize("name", WATCHING)
def test_reports_that_cannot_be_written_are_found_before_the_work(runs, tmp_path, monkeypatch, name):
    command, report, options = WATCHING[name]
    arguments = ["stage=gaussian", *places(tmp_path, "runs", "results"), "sample_steps=2", *options]
    arguments = [text for text in arguments if text.partition("=")[0] in command.OPTIONS]
    monkeypatch.delattr(PixelPipeline, "trajectory")
    (tmp_path / "results").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="cannot write"):
        command.main(arguments)
    (tmp_path / "results").unlink()
    if report.endswith(".json"):
        there = tmp_path / "results/digits/gaussian-base" / report
        there.parent.mkdir(parents=True)
        there.write_text(json.dumps({"stage": "gaussian", "data": "digits", "preset": "sddpm"}))
        with pytest.raises(InputError, match="is a report on preset sddpm, and would be replaced"):
            command.main(arguments)


def test_threshold_sweep_reads_what_it_compares_with_before_it_samples(runs, tmp_path, monkeypatch):
    monkeypatch.delattr(PixelPipeline, "trajectory")
    arguments = ["stage=gaussian", *places(tmp_path, "runs", "results"), "n=10", "seeds=2", "sample_steps=2"]
    (runs / "digits/base/classifier/model.safetensors").unlink()
    with pytest.raises(InputError, match="no trained classifier"):
        threshold_sweep.main(arguments)


def test_threshold_sweep_tells_mean_and_spread(runs, tmp_path, capsys):
    arguments = [*places(tmp_path, "runs", "results", "data_dir"), "n=16", "seeds=2", "sample_steps=2"]
    threshold_sweep.main([*arguments, "shifts=-0.1 0"])
    report = read(tmp_path, "threshold_sweep.json")
    assert [row["shift"] for row in report["rows"]] == [0.0, -0.1]
    plain, shifted = report["rows"]
    assert (plain["change"], plain["change_error"]) == (0, 0)
    assert shifted["change"] == pytest.approx(shifted["mean"] - plain["mean"])
    for row in report["rows"]:
        assert row["mean"] == pytest.approx(sum(row["per_seed"]) / 2)
        assert row["std"] == pytest.approx(abs(row["per_seed"][0] - row["per_seed"][1]) / 2**0.5)
    assert plain["per_seed"] != shifted["per_seed"]
    assert "threshold -0.1: classifier distance" in capsys.readouterr().out
    mistakes = {
        "shifts=a": "shifts must be numbers",
        "seeds=1": "seeds must be at least 2",
        "shifts=-2": "threshold_shift must be greater than",
        "threshold_shift=0.1": "unknown argument",
    }
    for wrong, told in mistakes.items():
        with pytest.raises(InputError, match=told):
            threshold_sweep.main([*arguments, wrong])
