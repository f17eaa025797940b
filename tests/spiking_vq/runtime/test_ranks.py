"""Two processes compute what one does: exchange, statistics of batch norm, codebooks, noise."""

import pytest
import torch
from torch import distributed, multiprocessing

from spiking_vq.layers.synapses import conv_norm, synchronise
from spiking_vq.models.quantizers import VectorQuantizer
from spiking_vq.models.spike_generators import PoissonSpikeGenerator
from spiking_vq.neurons.lif import LIF
from spiking_vq.randomness import stratified_times
from spiking_vq.runtime.distributed import all_rows, mean_over_ranks, num_ranks, own_rows, rank, sum_over_ranks

RANKS = 2


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


@pytest.mark.slow
def test_exchange(ranks, alone):
    rows = torch.arange(8.0).view(4, 2)
    assert [found["own"].tolist() for found in ranks] == [rows[::2].tolist(), rows[1::2].tolist()]
    for found in ranks:
        assert torch.equal(found["all"], rows)
        assert torch.equal(found["sum"], rows[::2] + rows[1::2])
        assert torch.equal(found["mean"], (rows[::2] + rows[1::2]) / 2)
    assert all(torch.equal(alone[name], rows) for name in ("own", "all", "sum", "mean"))


@pytest.mark.slow
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


@pytest.mark.slow
def test_batch_norm_by_itself_sees_its_share(ranks, alone):
    found, whole = [of["by itself"] for of in ranks], alone["by itself"]
    assert not torch.equal(found[0]["1.running_mean"], found[1]["1.running_mean"])
    assert not torch.equal(found[0]["1.running_var"], whole["1.running_var"])


@pytest.mark.slow
def test_codebooks_are_one(ranks, alone):
    one, other, whole = (of["codebook"] for of in (*ranks, alone))
    assert whole["restarts"].sum() > 0
    for name in whole:
        assert torch.equal(one[name], other[name])
        torch.testing.assert_close(one[name], whole[name], rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_poisson_spikes_of_a_share_are_those_of_the_batch(ranks, alone):
    assert torch.equal(in_order([of["poisson"] for of in ranks]), alone["poisson"])
    assert not torch.equal(alone["poisson"][:, ::2], alone["poisson"][:, 1::2])
