"""The commands as a person calls them: what they write, and that mistakes give one clear line and exit code 2."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spiking_vq.checkpoint.build import build_model
from spiking_vq.checkpoint.file import load_model, save_model
from spiking_vq.config.schema import AbsorbingConfig, DenoiserOptions, VQSVAEConfig, VQSVAEOptions
from spiking_vq.data.datasets import load_dataset
from spiking_vq.data.levels import to_unit
from spiking_vq.diffusion.absorbing_sampler import AbsorbingSamplerOptions
from spiking_vq.errors import InputError
from spiking_vq.pipelines import zoo as generators
from stages import sample, train
from stages.bench import run as bench
from stages.cli.options import MODEL, network_calls, network_steps, parse_options, read_numbers, recorded_command
from stages.cli.run import run_command
from stages.compare import report as compare
from stages.evaluate import report as evaluate
from stages.inspect import energy, portrait
from stages.inspect import purity as spiking_report
from stages.inspect import rates as firing_rates
from stages.publish import cards
from stages.publish import weights as publish
from stages.study import analytic, candidates, labels
from stages.study import decomposition as decompose
from stages.study import encodings as ablation
from stages.study import grid as all_runs
from stages.study import recognition as recognise
from stages.study import thresholds as threshold_sweep

ROOT = Path(__file__).parents[3]


@pytest.fixture
def command(monkeypatch, capsys):
    """Call a command's main as its `__main__` does: `command(main, *arguments) -> (exit code, stdout, stderr)`."""

    def call(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        code = 0
        try:
            run_command(main)
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A runs folder with an untrained stage-2 file for the digits."""
    torch.manual_seed(0)
    runs = tmp_path_factory.mktemp("runs")
    vq_svae = VQSVAEConfig(
        data="digits",
        preset="base",
        image_shape=[1, 28, 28],
        T=2,
        model=VQSVAEOptions(channels=[4, 8], embedding_dim=4, codebook_size=16),
    )
    config = AbsorbingConfig(
        data="digits",
        preset="base",
        image_shape=[1, 28, 28],
        T=2,
        model=DenoiserOptions("token", width=8, num_blocks=1),
        sample=AbsorbingSamplerOptions(sample_steps=4),
        vq_svae=vq_svae,
    )
    for part in (vq_svae, config):
        save_model(runs / "digits/base" / part.stage / "model.safetensors", build_model(part), part)
    return runs


def test_sample_needs_one_file_and_nothing_else(runs, tmp_path, command):
    moved = tmp_path / "alone.safetensors"
    moved.write_bytes((runs / "digits/base/absorbing/model.safetensors").read_bytes())
    code, out, _ = command(sample.main, f"ckpt={moved}", "n=3", f"out={tmp_path / 'out'}")
    assert code == 0
    assert "grid.png" in out
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == [
        "000000.png",
        "000001.png",
        "000002.png",
    ]
    assert np.load(tmp_path / "out/tokens.npy").shape == (3, 7, 7)
    assert Image.open(tmp_path / "out/images/000000.png").size == (28, 28)


def test_image_is_the_same_however_many_are_asked_for(runs, tmp_path, command):
    for n in (2, 5):
        command(sample.main, "data=digits", f"runs={runs}", f"n={n}", f"out={tmp_path / str(n)}")
    few, many = (tmp_path / str(n) / "images" / "000001.png" for n in (2, 5))
    assert few.read_bytes() == many.read_bytes()
    # and a second call leaves no image of the first behind
    command(sample.main, "data=digits", f"runs={runs}", "n=2", f"out={tmp_path / '5'}")
    assert len(list((tmp_path / "5/images").iterdir())) == 2


@pytest.mark.parametrize(
    "foreign",
    ["images/holiday.png", "images/000001.png", "images/step0000100.png", "images/000000.png", "images", "tokens.npy"],
)
def test_sampling_replaces_nothing_that_it_did_not_write(runs, tmp_path, command, foreign):
    """A folder of photos, numbered from 1 or from 0; the pictures of a training; a file where the folder would be."""
    theirs = tmp_path / "mine" / foreign
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    code, _, error = command(sample.main, "data=digits", f"runs={runs}", "n=1", f"out={tmp_path / 'mine'}")
    assert code == 2
    assert f"holds {foreign}, which sampling did not write and would replace: choose another folder with out=" in error
    assert [path.read_bytes() for path in (tmp_path / "mine").rglob("*") if path.is_file()] == [b"theirs"]


def test_samples_replace_earlier_samples(runs, tmp_path, command):
    out, arguments = tmp_path / "out", ("data=digits", f"runs={runs}", f"out={tmp_path / 'out'}")
    for n in (5, 2, 3):
        assert command(sample.main, *arguments, f"n={n}")[0] == 0
        assert [path.name for path in sorted((out / "images").iterdir())] == [f"{i:06d}.png" for i in range(n)]
    (out / "images/000003.png.txt").write_text("theirs")
    assert command(sample.main, *arguments, "n=1")[0] == 2
    assert len(list((out / "images").iterdir())) == 4


@pytest.mark.parametrize(("earlier", "done"), [(False, 0), (True, 0), (True, 1)])
def test_killed_while_writing_samples(runs, tmp_path, command, monkeypatch, earlier, done):
    """The folder is still known as ours, after however many renames."""
    out, arguments = tmp_path / "out", ("data=digits", f"runs={runs}", f"out={tmp_path / 'out'}")
    if earlier:
        assert command(sample.main, *arguments, "n=5")[0] == 0
    renames, whole = [], Path.rename

    def rename(self, target):
        if len(renames) == done:
            raise KeyboardInterrupt
        renames.append(target)
        return whole(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        assert command(sample.main, *arguments, "n=2")[0] == 130
    assert command(sample.main, *arguments, "n=3")[0] == 0
    assert len(list((out / "images").iterdir())) == 3
    assert not list(out.glob(".*"))


def test_sampling_does_not_import_a_trainer(runs, tmp_path):
    script = (
        "import sys; from stages import sample;"
        f"sample.main(['data=digits', 'runs={runs}', 'n=1', 'out={tmp_path}']);"
        "assert not {'lightning', 'pytorch_lightning', 'sklearn'} & set(sys.modules), 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_firing_rates_are_printed_for_both_stages(runs, tmp_path, command):
    code, out, _ = command(firing_rates.main, "data=digits", f"runs={runs}", "n=64", f"results={tmp_path}")
    assert code == 0
    report = json.loads((tmp_path / "digits/base/firing_rates.json").read_text())
    for stage in ("vq_svae", "absorbing"):
        assert all(0 <= rate <= 1 for rate in report["firing_rate"][stage].values())
        assert {"all"} < set(report["firing_rate"][stage])
    assert report["T"] == {"vq_svae": 2, "denoiser": 2}
    assert "vq_svae\n" in out


def test_samples_of_a_named_file_go_where_its_own_data_and_preset_say(runs, tmp_path, command):
    named = runs / "digits/base/absorbing/model.safetensors"
    code, _, _ = command(sample.main, f"ckpt={named}", "data=mnist", f"runs={tmp_path}", "n=1")
    assert code == 0
    assert (tmp_path / "digits/base/samples/grid.png").is_file()


def test_recognise_reads_the_samples(runs, tmp_path, command):
    out = runs / "digits/base/samples"
    command(sample.main, "data=digits", f"runs={runs}", "n=4", f"out={out}")
    code, said, _ = command(recognise.main, f"runs={runs}")
    assert code == 0
    accuracy = float(re.search(r"reads ([\d.]+)% of real", said)[1])
    assert accuracy > 95
    assert "the 4 generated" in said


def test_published_model_samples_from_the_zoo(runs, tmp_path, command, monkeypatch):
    for stage in ("vq_svae", "absorbing"):
        (runs / "digits/base" / stage / "training.json").write_text('{"steps": 3}')
    code, _, _ = command(publish.main, "data=digits", f"runs={runs}", f"zoo={tmp_path / 'zoo'}", "temperature=0.5")
    assert code == 0
    published = generators.LatentPipeline.from_pretrained(tmp_path / "zoo/digits-base-absorbing.safetensors")
    settings = {
        "sample_steps": 4,
        "order": "random",
        "temperature": 0.5,
        "last_temperature": None,
        "top_p": 1.0,
        "remask_calls": 0,
        "schedule": "linear",
    }
    assert published.sampling() == settings
    description = json.loads((tmp_path / "zoo/digits-base-absorbing.json").read_text())
    assert description["training"] == {"vq_svae": {"steps": 3}, "absorbing": {"steps": 3}}
    monkeypatch.setattr(generators, "ZOO", tmp_path / "zoo")
    (tmp_path / "none").mkdir()
    code, _, said = command(sample.main, "data=digits", f"runs={tmp_path / 'none'}", "n=1", f"out={tmp_path / 'out'}")
    assert code == 0
    file = tmp_path / "zoo/digits-base-absorbing.safetensors"
    assert said.splitlines().count(f"no such model in {tmp_path}/none: using the weights that ship, {file}") == 1
    _, _, said = command(sample.main, "data=digits", f"runs={runs}", "n=1", f"out={tmp_path / 'out'}")
    assert "that ship" not in said
    for name in ("digits", "digits-base"):
        named = generators.LatentPipeline.from_pretrained(name)
        assert torch.equal(named.sample(1).images, published.sample(1).images)
    with pytest.raises(InputError, match="no model file at kmnist"):  # nor does one ship
        generators.LatentPipeline.from_pretrained("kmnist")


def test_model_cards_tell_what_was_measured_of_the_very_file(runs, tmp_path, command):
    zoo, results = tmp_path / "zoo", tmp_path / "results"
    machine = {"device": "cpu", "cpu": "a processor", "cores": 2, "threads": 1, "torch": "2"}
    for stage in ("vq_svae", "absorbing"):
        told = {"stage": stage, "data": "digits", "preset": "base", "command": f"train {stage}", "machine": machine}
        told |= {"parameters": 12345, "steps": 3, "seconds": 90.0}
        (runs / "digits/base" / stage / "training.json").write_text(json.dumps(told))
    assert command(publish.main, "data=digits", f"runs={runs}", f"zoo={zoo}")[0] == 0
    published = zoo / "digits-base-absorbing.json"
    description = json.loads(published.read_text())
    sha256 = description["sha256"]
    assert description["stand_in"] is None
    published.write_text(json.dumps(description | {"stand_in": "a stand-in of few images"}))
    figures = {name: {"mean": 0.25, "std": 0.0125, "per_seed": []} for name in cards.SHOWN}
    evaluation = {"command": "measure", "about": "so many", "sampler": {"sample_steps": 4}}
    evaluation |= {"metrics": figures, "floor": dict.fromkeys(cards.SHOWN, 0.125), "floor_std": {"kid": 0.005}}
    evaluation |= {"counts": {"generated": 8100, "floor": 90, "reference": 1000}}
    evaluation |= {"memorisation": {"authenticity": 0.9, "authenticity_held_out": 0.6}}

    def fires(rate):
        return {"firing_rate": {"absorbing": {"all": rate, "a layer": 1.0}}}

    reports = {
        "test-10k": evaluation | {"checkpoint": {"sha256": sha256}} | fires(0.0625),
        "val": evaluation | {"checkpoint": {"sha256": "another file's"}} | fires(0.5),
    }
    (results / "digits/base").mkdir(parents=True)
    for name, report in reports.items():
        (results / "digits/base" / f"{name}.json").write_text(json.dumps(report))
    assert command(cards.main, f"zoo={zoo}", f"results={results}")[0] == 0
    described = json.loads(published.read_text())
    assert set(described["measured"]) == {"test-10k", "firing_rate"}
    card = (zoo / "digits-base-absorbing.md").read_text()
    for words in (
        sha256,
        "| absorbing | 12,345 | 3 | 1.5 |",
        "    train vq_svae",
        "Compared were 8,100 generated and 90 real training images, all there are, with 1,000.",
        "| KID x 1000 | 250 ± 12 | 125 ± 5 |",
        "| FID | 0.25 ± 0.013 | 0.125 |",
        "What it was trained on and is compared with: a stand-in of few images.",
        "Mean firing rate: absorbing 0.062.",
        "Energy: not measured.",
        "codebook_size: ",
    ):
        assert words in card
    assert "## val" not in card


def test_a_published_classifier_is_found_in_the_zoo(tmp_path, command, monkeypatch):
    short = [
        "train.max_steps=150",
        "train.val_every=150",
        "train.warmup_steps=10",
        "train.lr=2e-2",
        "train.compile=false",
        "precision=fp32",
        "model.channels=[16,32]",
    ]
    code, _, _ = command(train.main, "classifier", "data=digits", f"runs={tmp_path}", *short)
    assert code == 0
    monkeypatch.setattr(generators, "ZOO", tmp_path / "zoo")
    arguments = ["data=digits", f"runs={tmp_path}", f"zoo={tmp_path / 'zoo'}", "stage=classifier"]
    assert command(publish.main, *arguments)[0] == 0
    assert command(publish.main, *arguments, "temperature=0.5")[0] == 2
    model, _ = load_model(generators.find_model("classifier", "digits", "base", tmp_path / "none"))
    data = load_dataset("digits", "data")
    with torch.no_grad():
        read = model(to_unit(data.test.images)).argmax(1)
    assert (read == data.test.labels).float().mean() > 0.8


MISTAKES = {
    "unknown stage": (train.main, ["stage3", "data=digits"], r"\(absorbing, base\).*\(vq_svae, paper\)"),
    "illegal pair": (train.main, ["vq_svae", "preset=huge"], r"'huge'.*\(vq_svae, base\)"),
    "unknown key": (train.main, ["vq_svae", "max_steps=3"], r"did you mean train\.max_steps"),
    "not key=value": (train.main, ["vq_svae", "max_steps"], r"key=value"),
    "wrong type": (train.main, ["vq_svae", "train.lr=fast"], r"train\.lr"),
    "wrong T": (train.main, ["vq_svae", "T=0"], r"T must be at least 1"),
    "time without spikes": (train.main, ["vq_svae", "neuron=relu", "T=4"], r"1 with neuron=relu"),
    "unknown data": (train.main, ["vq_svae", "data=svhn"], r"mnist, fmnist, kmnist, letters, cifar10, digits"),
    "missing data": (train.main, ["vq_svae", "data=mnist", "data_dir={tmp}/none"], r"{tmp}/none.*DATA=digits"),
    "wrong image size": (train.main, ["vq_svae", "data=digits", "image_size=30", "runs={tmp}"], r"multiples of 4"),
    "unwritable folder": (train.main, ["vq_svae", "data=digits", "runs={tmp}/file/runs"], r"cannot write.*file/runs"),
    "unknown device": (train.main, ["vq_svae", "device=abacus"], r"device=abacus.*cpu"),
    "no stage 1": (train.main, ["absorbing", "data=digits", "runs={tmp}"], r"needs a finished stage 1.*make stage1"),
    "no model": (sample.main, ["data=digits", "preset=paper", "runs={tmp}"], r"no trained absorbing model.*CKPT="),
    "named file missing": (sample.main, ["ckpt={tmp}/none"], r"no model file at"),
    "runs are a file": (sample.main, ["runs={tmp}/file"], r"no folder {tmp}/file: runs="),
    "temperature is not a number": (
        sample.main,
        ["data=digits", "runs={runs}", "temperature=nan"],
        r"temperature must be a finite number; got 'nan'",
    ),
    "negative temperature": (sample.main, ["data=digits", "runs={runs}", "temperature=-1"], r"temperature must be"),
    "too many calls": (sample.main, ["data=digits", "runs={runs}", "sample_steps=50"], r"1\.\.49.*got 50"),
    "no calls": (sample.main, ["data=digits", "runs={runs}", "sample_steps=0"], r"1\.\.49.*got 0"),
    "unknown order": (sample.main, ["data=digits", "runs={runs}", "order=spiral"], r"bernoulli, random, halton"),
    "no such device to sample on": (sample.main, ["data=digits", "runs={runs}", "device=abacus"], r"device=abacus"),
    "unknown precision": (sample.main, ["data=digits", "runs={runs}", "precision=fp8"], r"one of fp32, bf16.*fp8"),
    "no images": (sample.main, ["data=digits", "runs={runs}", "n=0"], r"at least 1"),
    "unwritable samples": (sample.main, ["data=digits", "runs={runs}", "n=1", "out={tmp}/file"], r"cannot write"),
    "stage-1 file": (
        sample.main,
        ["ckpt={runs}/digits/base/vq_svae/model.safetensors"],
        r"vq_svae model, which cannot generate",
    ),
    "truncated file": (sample.main, ["ckpt={tmp}/truncated"], r"truncated, corrupt"),
    "foreign file": (sample.main, ["ckpt={tmp}/file"], r"truncated, corrupt or of another format"),
    "part of a chunk": (firing_rates.main, ["data=digits", "runs={runs}", "n=8"], r"multiple of 64.*got 8"),
    "unusable default": (publish.main, ["data=digits", "runs={runs}", "zoo={tmp}", "order=spiral"], r"order must be"),
    "unknown stage to publish": (
        publish.main,
        ["data=digits", "runs={runs}", "stage=vq_svae"],
        r"absorbing, gaussian, classifier",
    ),
    "no classifier": (
        evaluate.main,
        ["data=digits", "runs={runs}", "features=classifier"],
        r"no trained classifier model.*make classifier.*classifier=",
    ),
    "time of a classifier": (train.main, ["classifier", "data=digits", "T=4"], r"unknown configuration field 'T'"),
    "unfinished run": (publish.main, ["data=digits", "runs={tmp}"], r"no model file"),
    "no samples": (recognise.main, ["runs={tmp}"], r"no samples.*make demo"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_gives_one_clear_error_and_exit_code_2(name, runs, tmp_path, command):
    main, arguments, message = MISTAKES[name]
    (tmp_path / "file").write_text("a file, not a folder")
    whole = (runs / "digits/base/absorbing/model.safetensors").read_bytes()
    (tmp_path / "truncated").write_bytes(whole[: len(whole) // 2])
    places = {"tmp": tmp_path, "runs": runs}
    code, _, said = command(main, *(text.format(**places) for text in arguments))
    assert code == 2
    assert "Traceback" not in said
    assert re.search(r"^error: .*" + message.replace("{tmp}", str(tmp_path)), said, re.DOTALL | re.MULTILINE), said


def test_options_take_the_types_of_their_defaults():
    defaults = {"n": 64, "temperature": float, "order": "random", "ckpt": Path, "runs": Path("runs")}
    assert parse_options(["n=3", "temperature=0.5", "ckpt="], defaults) == {
        "n": 3,
        "temperature": 0.5,
        "order": "random",
        "ckpt": None,
        "runs": Path("runs"),
    }
    given = ["n=010", "n=", "temperature=5", "order=010", "ckpt=a #1", "runs=2026_11_28"]
    assert parse_options(given, defaults) == {
        "n": 10,
        "temperature": 5.0,
        "order": "010",
        "ckpt": Path("a #1"),
        "runs": Path("2026_11_28"),
    }


@pytest.mark.parametrize("text", ["1.5", "1e3", "true", "nan", "7e12345", "1_000", "0x10", "one", " 1"])
def test_an_integer_option_is_an_integer(text):
    with pytest.raises(InputError, match=f"^n must be an integer; got '{text}'$"):
        parse_options([f"n={text}"], {"n": 64})


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999", "1_0", "hot"])
def test_a_number_option_is_finite(text):
    with pytest.raises(InputError, match=f"^temperature must be a finite number; got '{text}'$"):
        parse_options([f"temperature={text}"], {"temperature": float})
    with pytest.raises(InputError, match="strengths must be numbers"):
        read_numbers("strengths", f"1 {text}", "1 1.5")


COMMANDS = [
    ablation,
    all_runs,
    analytic,
    bench,
    candidates,
    cards,
    compare,
    decompose,
    energy,
    evaluate,
    firing_rates,
    labels,
    portrait,
    publish,
    recognise,
    sample,
    spiking_report,
    threshold_sweep,
]
OF_A_MODEL = [module for module in COMMANDS if MODEL.items() - {("stage", "absorbing")} <= module.OPTIONS.items()]


def test_there_is_no_other_command():
    found = {path.relative_to(ROOT) for path in ROOT.glob("stages/**/*.py") if "OPTIONS = {" in path.read_text()}
    assert found == {Path(module.__file__).relative_to(ROOT) for module in COMMANDS}
    assert len(OF_A_MODEL) == 10


@pytest.mark.parametrize("module", COMMANDS, ids=lambda module: module.__name__)
def test_every_path_begins_at_home(module, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    paths = {"ckpt", "runs", "data_dir", "results", "out", "zoo", "images", "inception", "classifier"}
    for name in paths & module.OPTIONS.keys():
        options = parse_options([f"{name}=~/a b"], module.OPTIONS)
        assert options[name] == Path("/home/me/a b")


@pytest.mark.parametrize(
    "module", [module for module in COMMANDS if "seed" in module.OPTIONS], ids=lambda module: module.__name__
)
@pytest.mark.parametrize("seed", [-1, 2**32, 2**63, "1.0", "1e3", "true"])
def test_every_command_takes_one_range_of_seeds(module, seed, command):
    code, _, said = command(module.main, f"seed={seed}")
    assert code == 2
    assert re.search(r"^error: seed must be (in 0\.\.2\^32 - 1|an integer|in -)", said)
    assert parse_options(["seed=4294967295"], module.OPTIONS)["seed"] == 2**32 - 1


@pytest.mark.parametrize("module", OF_A_MODEL, ids=lambda module: module.__name__)
def test_a_named_run_folder_that_does_not_exist(module, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, said = command(module.main, "runs=2026_11_28")
    assert code == 2
    assert "no folder 2026_11_28: runs= names the one you trained in" in said
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("module", [ablation, candidates, threshold_sweep])
@pytest.mark.parametrize("count", ["0", "-1", "4294967297", "1.5"])
def test_a_number_of_seeds_is_in_range(module, count, command):
    code, _, said = command(module.main, f"seeds={count}")
    assert code == 2
    assert said.startswith("error: seeds must be ")


def test_an_empty_preset_is_base(command):
    assert "T must be at least 1" in command(train.main, "vq_svae", "preset=", "T=0")[2]


def test_python_finds_files_at_home_too(monkeypatch, tmp_path, runs):
    monkeypatch.setenv("HOME", str(runs))
    file = "~/digits/base/absorbing/model.safetensors"
    assert generators.LatentPipeline.from_pretrained(file).config.data == "digits"
    assert generators.load(file).config.data == "digits"
    assert generators.find_model("absorbing", "digits", "base", "~") == runs / file[2:]
    assert generators.find_model("absorbing", "digits", "base", ckpt=file) == runs / file[2:]
    model, config = load_model(file)
    monkeypatch.setenv("HOME", str(tmp_path))
    save_model("~/model.safetensors", model, config)
    assert (tmp_path / "model.safetensors").is_file()
    assert load_dataset("digits", "~/data").root == tmp_path / "data"


def test_recorded_commands_name_no_place_of_this_machine():
    arguments = ["vq_svae", "data_dir=/home/me/data", "runs=runs", "out=~/mine", "ckpt=spiking_vq/zoo/a.safetensors"]
    assert recorded_command("train", arguments) == (
        "spiking-vq train vq_svae data_dir=data runs=runs out=mine ckpt=spiking_vq/zoo/a.safetensors"
    )


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    said = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True).stdout
    for target in phony:
        assert re.search(rf"^  make {target} +\S", said, re.MULTILINE), f"make help does not list {target}"


def test_readme_names_targets_presets_and_modules_that_exist():
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", readme, re.MULTILINE)) <= targets
    pairs = set(re.findall(r"^\| `([\w-]+)` \| `([\w-]+)` \|", readme, re.MULTILINE))
    assert pairs >= {(path.parent.name, path.stem) for path in (ROOT / "configs").glob("*/*.yaml")}
    for module in re.findall(r"python -m ([\w.]+)", readme):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme):
        assert (ROOT / picture).is_file()


@pytest.mark.parametrize(("guidance", "calls"), [(None, 8), (0, 8), (1.0, 8), (1.5, 16)])
def test_guidance_asks_the_network_twice(guidance, calls):
    settings = {"sample_steps": 8} | ({} if guidance is None else {"guidance": guidance})
    assert network_calls(settings) == calls
    assert network_steps(settings, 4) == 4 * calls
    assert network_steps(settings | {"guidance_T": 1}, 4) == {8: 32, 16: 40}[calls]
