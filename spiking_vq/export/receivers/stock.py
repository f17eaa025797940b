"""Other libraries' receivers of NIR, as they are: snnTorch, Norse, SpikingJelly, Sinabs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spiking_vq.export.graphs.graph import DT, Convolution, Graph
from spiking_vq.export.nir_file import to_nir


class Run(NamedTuple):
    """A graph run by a receiver.

    Attributes:
        output: `[T, B, C, H, W]`.
        spikes: neuron layer -> its spikes `[T, B, C, H, W]`.
    """

    output: Tensor
    spikes: dict[str, Tensor]


class StockReceiver(NamedTuple):
    """A library that reads NIR.

    Attributes:
        package: that has to be installed.
        build: of a `nir.NIRGraph`, the batch size and T, the library's network.
        call: how to build it, for its users.
        at_once: the network takes all steps in one call, `[B T, C, H, W]`.
        forms: that it runs exactly.
    """

    package: str
    build: Callable[[Any, int, int], nn.Module]
    call: str
    at_once: bool = False
    forms: tuple[str, ...] = ("feedback",)

    @property
    def installed(self) -> bool:
        """Whether the package is there, and what it reads NIR with."""
        return all(find_spec(name) is not None for name in (self.package, "nir", "nirtorch"))

    @property
    def version(self) -> str:
        """Of the package."""
        return version(self.package)


def _snntorch(graph: Any, batch: int, num_steps: int) -> nn.Module:
    return import_module("snntorch.import_nir").import_from_nir(graph)


def _norse(graph: Any, batch: int, num_steps: int) -> nn.Module:
    return import_module("norse.torch").from_nir(graph, dt=DT)


def _spikingjelly(graph: Any, batch: int, num_steps: int) -> nn.Module:
    return import_module("spikingjelly.activation_based.nir_exchange").import_from_nir(graph, dt=DT)


def _sinabs(graph: Any, batch: int, num_steps: int) -> nn.Module:
    """As imported, membranes stop at minus the threshold and a step may hold several spikes; ours do neither."""
    network = import_module("sinabs.nir").from_nir(graph, batch_size=batch, num_timesteps=num_steps)
    for module in network.modules():
        if hasattr(module, "spike_fn"):
            module.min_v_mem, module.spike_fn = None, import_module("sinabs.activation").SingleSpike
    return network


RECEIVERS = {
    "snnTorch": StockReceiver("snntorch", _snntorch, "snntorch.import_nir.import_from_nir(graph)"),
    "Norse": StockReceiver("norse", _norse, "norse.torch.from_nir(graph, dt=1e-4)"),
    "SpikingJelly": StockReceiver(
        "spikingjelly", _spikingjelly, "spikingjelly.activation_based.nir_exchange.import_from_nir(graph, dt=1e-4)"
    ),
    "Sinabs": StockReceiver(
        "sinabs",
        _sinabs,
        "sinabs.nir.from_nir(graph, batch_size=B, num_timesteps=T); then of each layer min_v_mem = None and"
        " spike_fn = sinabs.activation.SingleSpike",
        at_once=True,
        forms=("standard",),
    ),
}
"""Name -> receiver."""


@torch.no_grad()
def run_stock(receiver: StockReceiver, graph: Graph, x: Tensor, num_steps: int) -> Run:
    """Run a graph in float32, from rest.

    Args:
        receiver: of the library.
        graph: to run.
        x: its input `[T, B, C, H, W]`, or `[1, B, C, H, W]` if it is always the same.
        num_steps: T.
    """
    x = x.float().expand(num_steps, *x.shape[1:])
    with _quiet():
        network = receiver.build(to_nir(graph), x.shape[1], num_steps).eval()
        spikes: dict[str, list[Tensor]] = {name: [] for name in graph.neurons()}
        handles = [
            module.register_forward_hook(_keep(spikes[name]))
            for path, module in network.named_modules()
            if (name := path.split(".")[-1]) in spikes and "." not in path.replace(f".{name}", "")
        ]
        if receiver.at_once:
            made = network(x.transpose(0, 1).flatten(0, 1))
            output = (
                (made[0] if isinstance(made, tuple) else made).unflatten(0, (x.shape[1], num_steps)).transpose(0, 1)
            )
            layers = {
                name: kept[0].unflatten(0, (x.shape[1], num_steps)).transpose(0, 1) for name, kept in spikes.items()
            }
        else:
            outputs, state = [], None
            for step in range(num_steps):
                made, state = network(x[step], state)
                outputs.append(made)
            output, layers = torch.stack(outputs), {name: torch.stack(kept) for name, kept in spikes.items()}
    for handle in handles:
        handle.remove()
    return Run(output, layers)


def ungrouped(graph: Graph) -> Graph:
    """The same graph without groups: their weights stand in matrices of mostly 0.

    Stock receivers of today refuse grouped convolutions or build them with a wrong number of channels. The weights of a
    mixer grow by the number of channels.
    """
    nodes = {name: _dense(node) if isinstance(node, Convolution) else node for name, node in graph.nodes.items()}
    return Graph(graph.input_shape, nodes, graph.edges)


def _dense(node: Convolution) -> Convolution:
    """A convolution without groups, in float32, as there are gigabytes of it."""
    if node.groups == 1:
        return node
    out_channels, in_channels = (len(node.weight) // node.groups, node.weight.shape[1])
    weight = torch.zeros(len(node.weight), in_channels * node.groups, *node.weight.shape[2:], dtype=torch.float32)
    for group in range(node.groups):
        rows = slice(group * out_channels, (group + 1) * out_channels)
        weight[rows, group * in_channels : (group + 1) * in_channels] = node.weight[rows]
    return Convolution(weight, node.bias, node.size, node.stride, node.padding)


@contextmanager
def groups_mended() -> Iterator[None]:
    """Inside the block receivers build grouped convolutions with all their channels, as their next versions might.

    The fix is `in_channels=weight.shape[1] * groups` in snnTorch, Norse and Sinabs; SpikingJelly refuses groups.
    """
    made = nn.Conv2d.__init__

    def mended(
        self: nn.Conv2d,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        *rest: Any,
        **options: Any,
    ) -> None:
        sizes = (kernel_size, stride, padding, dilation, int(groups))
        made(self, in_channels * int(groups), out_channels, *sizes, *rest, **options)

    refusing = "spikingjelly.activation_based.nir_exchange.from_nir"
    module = import_module(refusing) if find_spec("spikingjelly") else None
    nn.Conv2d.__init__ = mended
    refuse = getattr(module, "_require_ungrouped", None)
    try:
        if module:
            module._require_ungrouped = int
        yield
    finally:
        nn.Conv2d.__init__ = made
        if module:
            module._require_ungrouped = refuse


def _keep(into: list[Tensor]) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        into.append(output[0] if isinstance(output, tuple) else output)

    return hook


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the receivers' remarks about deprecated functions to ourselves."""
    level = logging.root.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.root.setLevel(level)
