"""Counts by NeuroBench, recorded: `pip install neurobench==2.3.0`, then `python neurobench_counts.py`.

NeuroBench needs some thirty packages that nothing else here does. So its counts are kept in
`tests/data/neurobench_counts.json`, and the tests compare ours with them.
"""

import json
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

import spiking_vq
from spiking_vq.neurons.lif import LIF
from spiking_vq.runtime.running import run_with

COUNTS = Path(__file__).parents[2] / "data" / "neurobench_counts.json"
"""Network -> `total`, effective ACs, effective MACs and dense operations, and the same of each of its layers."""

MODEL = "mnist-large"


class Call(nn.Module):
    """A call of a part of a network as a module of one input."""

    def __init__(self, network, call):
        super().__init__()
        self.network, self.call = network, call

    def forward(self, x):
        return self.call(self.network, x)


def calls():
    """Name -> a call of a shipped network, and its input, one image or its tokens."""
    model = spiking_vq.load(MODEL).model
    generator = torch.Generator().manual_seed(0)
    K, grid = model.vq_svae.codebook_size, model.vq_svae.code_grid
    tokens = torch.randint(K, (1, *grid), generator=generator)
    half_masked = torch.where(torch.rand(tokens.shape, generator=generator) < 0.5, K, tokens)
    t, label = torch.tensor([4]), torch.tensor([7])
    return {
        "denoiser": (Call(model.denoiser, lambda denoiser, x: denoiser(x, t, label)), half_masked),
        "decoder": (Call(model.vq_svae, lambda vq_svae, x: vq_svae.decode(x)), tokens),
        "encoder": (
            Call(model.vq_svae, lambda vq_svae, x: vq_svae.tokenize(x)),
            torch.rand(1, *model.vq_svae.image_shape, generator=generator),
        ),
    }


@torch.no_grad()
def main():
    from neurobench.metrics.utils.layers import single_layer_MACs
    from neurobench.metrics.workload import SynapticOperations
    from neurobench.models import TorchModel

    counts = {"neurobench": metadata.version("neurobench"), "model": MODEL, "networks": {}}
    for name, (call, x) in calls().items():
        names = {module: part for part, module in call.network.named_modules()}
        model = TorchModel(call)
        model.add_activation_module(LIF)
        model.register_hooks()
        with run_with(unfolded=True):
            made = model(x)
        found = SynapticOperations()(model, made, (x, None))
        layers = {}
        for hook in model.connection_hooks:
            inputs = [x for (x,) in hook.inputs]
            hook.close()
            for x in inputs:
                operations, by_spikes = single_layer_MACs(x, hook.layer)
                dense, _ = single_layer_MACs(x, hook.layer, total=True)
                layers[names[hook.layer]] = {
                    "acs": operations if by_spikes else 0,
                    "macs": 0 if by_spikes else operations,
                    "dense": dense,
                }
        total = {"acs": found["Effective_ACs"], "macs": found["Effective_MACs"], "dense": found["Dense"]}
        counts["networks"][name] = {"total": total, "layers": layers}
        model.cleanup_hooks()
    COUNTS.write_text(json.dumps(counts, indent=2) + "\n")


if __name__ == "__main__":
    main()
