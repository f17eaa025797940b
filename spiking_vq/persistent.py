"""Networks whose membranes persist from call to call: what they saw before, they still know a little of."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from spiking_vq.neurons import carried_membranes


class Persistent:
    """A network, called as it is itself, but every `LIF` goes on from the membrane that its last call left.

    Args:
        network: its calls have batches of one size; row i is the same image from call to call, until `start` says it is
            another.

    Attributes:
        membranes: name of a layer -> its membrane [B, ...]; empty before the first call, which starts from rest.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.membranes: dict[str, Tensor] = {}

    def start(self, fresh: Tensor) -> None:
        """Put to rest what rows of the batch have, bool [B]: new images begin there."""
        for name, membrane in self.membranes.items():
            rows = fresh.to(membrane.device).view(-1, *[1] * (membrane.dim() - 1))
            self.membranes[name] = membrane.masked_fill(rows, 0)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's answer, and what it leaves behind."""
        with carried_membranes(self.network, self.membranes):
            return self.network(*inputs)


def remembering(network: nn.Module, persistent: bool) -> tuple[Callable[..., Tensor], Callable[[Tensor], None] | None]:
    """A network as `AbsorbingDiffusion.sample` takes it: the denoiser and, where membranes persist, its `start`."""
    if not persistent:
        return network, None
    denoiser = Persistent(network)
    return denoiser, denoiser.start
