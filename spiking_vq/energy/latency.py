"""Latency: the longest chain of synapses that a step of a network waits for."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from spiking_vq.energy.counters import is_connection

Node = Any
"""A node of PyTorch's graph of gradients."""


def longest_path(model: nn.Module, call: Callable[[], Tensor]) -> int:
    """Number of synapses on the longest path from the inputs of a network to its output.

    The path goes through all branches and skips, along the graph of the gradients. It is that of one step: a neuron
    hands all its steps on at once. The parameters take gradients afterwards as before.

    Args:
        model: the network, with all synapses that `call` uses.
        call: calls the network, or a method of it, without switching gradients off; returns its output.
    """
    synapses: set[Node] = set()
    taking = {parameter: parameter.requires_grad for parameter in model.parameters()}
    with ExitStack() as stack, torch.enable_grad():
        for module in model.modules():
            if is_connection(module):
                hook = module.register_forward_hook(lambda module, inputs, output: synapses.add(output.grad_fn))
                stack.callback(hook.remove)
        stack.callback(lambda: [parameter.requires_grad_(takes) for parameter, takes in taking.items()])
        model.requires_grad_(True)
        return _longest(call().grad_fn, synapses)


def _longest(last: Node, counted: Collection[Node]) -> int:
    """Largest number of `counted` nodes on a path of the graph that ends in `last`."""
    lengths: dict[Node, int] = {}
    todo = [last]
    while todo:
        node = todo[-1]
        before = [earlier for earlier, _ in node.next_functions if earlier is not None]
        missing = [earlier for earlier in before if earlier not in lengths]
        if missing:
            todo += missing
        else:
            lengths[node] = max((lengths[earlier] for earlier in before), default=0) + (node in counted)
            todo.pop()
    return lengths[last]
