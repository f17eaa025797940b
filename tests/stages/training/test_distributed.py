"""Two processes do what one does: statistics, codebooks, training and sampling."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_training import CLASSIFIER, GAUSSIAN, STAGE1, STAGE2, die_at
from torch import distributed, multiprocessing

from spiking_vq.errors import InputError
from spiking_vq.layers.synapses import conv_norm, synchronise
from spiking_vq.models.quantizers import VectorQuantizer
from spiking_vq.models.spike_generators import PoissonSpikeGenerator
from spiking_vq.neurons.lif import LIF
from spiking_vq.randomness import stratified_times
from spiking_vq.runtime.distributed import all_rows, mean_over_ranks, num_ranks, own_rows, rank, sum_over_ranks
from stages import sample, train

ROOT = Path(__file__).parents[3]
RANKS = 2

# ---------------------------------------------------------------------------------------------------------------------
# The library's pieces


def layer_pass(synchronised):
    """A synapse with batch norm and neurons, forward and backward, on this rank's rows of a batch of 6."""
    torch.manual_seed(0)
    layer, neuron = conv_norm(3, 5, stride=2).double(), LIF()
    if synchronised:
        synchronise(layer)
    torch.nn.init.normal_(layer[1].weight)
    spk = (torch.rand(6, 4, 3, 8, 8).double() < 0.3).double()  # batch first, as rows are
    weights = torch.randn(6, 4, 5, 4, 4).double()
    own = own_rows(spk).transpose(0, 1).clone().requires_grad_()
    fired = neuron(layer(own))
    loss = (fired * own_rows(weights).transpose(0, 1)).mean()
    loss.backward()
    return {
        "spikes": fired.detach(),
        "input": own.grad,
        **{name: value.grad for name, value in layer.named_parameters()},
        **{name: value for name, value in layer.named_buffers() if value.is_floating_point()},
    }


def codebook_after_updates():
    """Three updates, in which codes without use are restarted."""
    torch.manual_seed(0)
    quantizer = VectorQuantizer(40, 3, ema_decay=0.5, restart_below=1.5).double()
    restarts = []
    for step in range(3):
        z = own_rows(torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(step)).double())
        restarts.append(quantizer.update(z, quantizer.nearest(z), torch.Generator().manual_seed(step)))
    return {**dict(quantizer.named_buffers()), "restarts": torch.tensor(restarts)}


def poisson_spikes(training):
    spikes = PoissonSpikeGenerator(3, LIF).train(training)
    vectors = own_rows(torch.linspace(0, 1, 4 * 3 * 25).view(4, 3, 5, 5))
    return spikes(vectors, 2, torch.Generator().manual_seed(0))


def everything():
    rows = torch.arange(8.0).view(4, 2)
    own = own_rows(rows)
    return {
        "own": own,
        "all": all_rows(own),
        "sum": sum_over_ranks(own),
        "mean": mean_over_ranks(own),
        "synchronised": layer_pass(True),
        "by itself": layer_pass(False),
        "codebook": codebook_after_updates(),
        "poisson": poisson_spikes(training=True),
    }


def work(index, folder):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=index, world_size=RANKS)
    assert (rank(), num_ranks()) == (index, RANKS)
    torch.save(everything(), f"{folder}/{index}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(work, (folder,), nprocs=RANKS)
    return [torch.load(folder / f"{index}.pt", weights_only=True) for index in range(RANKS)]


@pytest.fixture(scope="module")
def alone():
    """What one process finds."""
    return everything()


def in_order(parts):
    """The whole batch `[T, B, ...]` of the ranks' shares."""
    return torch.stack(parts, dim=2).flatten(1, 2)


def test_times_of_a_share_are_spread_over_all():
    t = stratified_times(64, 1000, torch.device("cpu"), torch.Generator().manual_seed(0))
    for share in (t[::2], t[1::2]):  # as `own_rows` has it
        assert share.min() <= 32
        assert share.max() > 968
        assert share.sort().values.diff().max() <= 32


def test_exchange(ranks, alone):
    rows = torch.arange(8.0).view(4, 2)
    assert [found["own"].tolist() for found in ranks] == [rows[::2].tolist(), rows[1::2].tolist()]
    for found in ranks:
        assert torch.equal(found["all"], rows)
        assert torch.equal(found["sum"], rows[::2] + rows[1::2])
        assert torch.equal(found["mean"], (rows[::2] + rows[1::2]) / 2)
    assert all(torch.equal(alone[name], rows) for name in ("own", "all", "sum", "mean"))


def test_synchronised_batch_norm_sees_the_whole_batch(ranks, alone):
    found, whole = [of["synchronised"] for of in ranks], alone["synchronised"]
    for name in ("spikes", "input"):
        both = in_order([of[name] for of in found])
        # the loss of a rank is the mean over its rows, so their gradients are ranks times those of the whole mean
        factor = 1 if name == "spikes" else RANKS
        torch.testing.assert_close(both, factor * whole[name], rtol=1e-10, atol=1e-14)
    for name in whole.keys() - {"spikes", "input"}:
        mean = sum(of[name] for of in found) / RANKS
        torch.testing.assert_close(mean, whole[name], rtol=1e-10, atol=1e-14)
    for name in ("1.running_mean", "1.running_var"):
        assert torch.equal(found[0][name], found[1][name])


def test_batch_norm_by_itself_sees_its_share(ranks, alone):
    found, whole = [of["by itself"] for of in ranks], alone["by itself"]
    assert not torch.equal(found[0]["1.running_mean"], found[1]["1.running_mean"])
    assert not torch.equal(found[0]["1.running_var"], whole["1.running_var"])


def test_codebooks_are_one(ranks, alone):
    one, other, whole = (of["codebook"] for of in (*ranks, alone))
    assert whole["restarts"].sum() > 0
    for name in whole:
        assert torch.equal(one[name], other[name])
        torch.testing.assert_close(one[name], whole[name], rtol=1e-12, atol=1e-14)


def test_poisson_spikes_of_a_share_are_those_of_the_batch(ranks, alone):
    assert torch.equal(in_order([of["poisson"] for of in ranks]), alone["poisson"])
    assert not torch.equal(alone["poisson"][:, ::2], alone["poisson"][:, 1::2])


# ---------------------------------------------------------------------------------------------------------------------
# The commands

EXACT = ["precision=fp64", "train.max_steps=3", "train.val_every=2", "train.save_every=2", "train.ema_decay=0.9"]
TWO = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.sync_batchnorm=true"]


def command(module, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "stages", module, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All stages, by one process and by two; and what the latter printed."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    train.main([*STAGE1, *EXACT, f"runs={one}"])
    printed = command("train", *STAGE1, *EXACT, *TWO, f"runs={two}")
    stage1 = f"stage1={one / 'digits/base/vq_svae/model.safetensors'}"
    train.main([*STAGE2, *EXACT, stage1, f"runs={one}"])
    printed += command("train", *STAGE2, *EXACT, *TWO, stage1, f"runs={two}")
    train.main([*GAUSSIAN, *EXACT, f"runs={one}"])
    printed += command("train", *GAUSSIAN, *EXACT, *TWO, f"runs={two}")
    return one / "digits/base", two / "digits/base", printed


@pytest.mark.parametrize("stage", ["vq_svae", "absorbing", "gaussian"])
def test_two_processes_train_the_same_weights_as_one(trained, stage):
    one, two, _ = trained
    weights, others = (load_file(run / stage / "model.safetensors") for run in (one, two))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert weight.dtype == others[name].dtype
        torch.testing.assert_close(weight, others[name], rtol=1e-10, atol=1e-10, equal_nan=True)
    assert {weight.dtype for weight in weights.values()} >= {torch.float64}


@pytest.mark.parametrize("stage", ["vq_svae", "absorbing", "gaussian"])
def test_one_process_writes_the_files(trained, stage):
    one, two, printed = trained
    names, others = ({path.relative_to(run) for path in (run / stage).rglob("*")} for run in (one, two))
    assert {path for path in names if "tb" not in path.parts} == {path for path in others if "tb" not in path.parts}
    assert len([path for path in others if "tfevents" in path.name]) == 1
    tables = []
    for run in (one, two):
        with (run / stage / "metrics.csv").open(newline="") as file:
            tables.append([{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)])
    for row, other in zip(*tables, strict=True):
        shared = {"step", "val/mse", "val/cross_entropy", "val/accuracy", "val/perplexity", "val/loss"} & row.keys()
        assert {key: other[key] for key in shared} == pytest.approx({key: row[key] for key in shared}, rel=1e-6)
    assert printed.count("wrote") == 3
    assert printed.count("3 steps") == 3


def test_two_processes_resume_what_one_began(trained, tmp_path, monkeypatch):
    one, *_ = trained
    with monkeypatch.context() as patch:
        die_at(patch, 2)
        with pytest.raises(RuntimeError, match="killed"):
            train.main([*STAGE1, *EXACT, "trainer.sync_batchnorm=true", f"runs={tmp_path}"])
    assert "resuming" in command("train", *STAGE1, *EXACT, *TWO, f"runs={tmp_path}")
    weights = load_file(one / "vq_svae/model.safetensors")
    for name, weight in load_file(tmp_path / "digits/base/vq_svae/model.safetensors").items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-10, atol=1e-12)


def test_two_processes_sample_the_same_images_as_one(trained, tmp_path):
    one, *_ = trained
    options = [f"ckpt={one / 'absorbing/model.safetensors'}", "n=1030", "sample_steps=2"]  # a group and six
    sample.main([*options, f"out={tmp_path / 'one'}"])
    printed = command("sample", *options, "devices=2", f"out={tmp_path / 'two'}")
    assert printed.count("wrote") == 1
    tokens, others = (np.load(tmp_path / name / "tokens.npy") for name in ("one", "two"))
    assert len(np.unique(tokens)) > 1
    np.testing.assert_array_equal(tokens, others)
    assert len(list((tmp_path / "two/images").iterdir())) == 1030


SPOILT = """
import sys
from spiking_vq.distributed import rank
from stages import train
from stages.classifier import ClassifierStage
from stages.command import run_command

whole = ClassifierStage.batch_loss

def batch_loss(self, batch, generator):
    figures = whole(self, batch, generator)
    spoilt = self.global_step == 3 and rank() == 1
    return figures | {"loss": figures["loss"] * (float("nan") if spoilt else 1.0)}

ClassifierStage.batch_loss = batch_loss
run_command(train.main)
"""


def test_a_loss_of_one_process_that_is_not_finite_stops_all(tmp_path):
    """The first says why, once."""
    script = tmp_path / "spoilt.py"
    script.write_text(SPOILT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, script, *CLASSIFIER, *TWO, f"runs={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    folder = tmp_path / "digits/base/classifier"
    assert done.stderr.count("error: ") == 1
    assert "error: training has diverged: loss = nan at step 4. Lower train.lr" in done.stderr
    assert "Traceback" not in done.stderr
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 3
    assert not (folder / "model.safetensors").exists()


def test_what_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"train.batch_size must be a multiple of trainer.devices, 3; got 400"):
        train.main([*STAGE1, "trainer.devices=3"])
    with pytest.raises(InputError, match=r"trainer.strategy must be one of auto, ddp; got fsdp"):
        train.main([*STAGE1, "trainer.strategy=fsdp"])
    with pytest.raises(InputError, match=r"devices must be at least 1; got 0"):
        sample.main(["devices=0"])
    for main, arguments in ((sample.main, ["devices=2"]), (train.main, [*STAGE1, *TWO])):
        with pytest.raises(InputError, match=r"device=cpu:0 is one device: with devices=2 it is device=cpu"):
            main([*arguments, "device=cpu:0"])
    for main, arguments in ((sample.main, []), (train.main, STAGE1)):
        with pytest.raises(InputError, match=r"device=cpu:1 is no device of its own: use device=cpu"):
            main([*arguments, "device=cpu:1"])
    with pytest.raises(InputError, match=r"device=meta cannot be used here"):
        sample.main(["device=meta"])


def test_mistakes_are_found_before_there_are_several_processes(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "launch", lambda *_: pytest.fail("launched"))
    (tmp_path / "file").touch()
    options = [f"ckpt={trained[0] / 'absorbing/model.safetensors'}", "devices=2"]
    mistakes = ["n=0", "order=no", "temperature=-1", "precision=fp8", "sample_steps=99"]
    for mistake in (f"out={tmp_path / 'file'}", *mistakes):
        with pytest.raises(InputError):
            sample.main([f"out={tmp_path / 'out'}", *options, mistake])
