"""A GPU that computes nothing: torch's fake tensors on a `cuda` device, which know shapes, types and devices only.

What would fail on a GPU fails here too, on any machine: tensors of two devices in one operation, shapes that depend on
data, and, where it matters, operations for which the host waits until the GPU has caught up.
"""

from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda:0")
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
INDEXING = {torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default}


class HostSync(AssertionError):
    """An operation for which the host waits for the GPU."""


class WrongDevice(AssertionError):
    """An operation on tensors, or with a generator, of another device than its own."""


class Generator(torch.Generator):
    """A generator on the CPU that is asked for on another device."""

    def __new__(cls, device="cpu"):
        generator = super().__new__(cls)
        generator.asked = torch.device(device)
        return generator


class Draws(TorchFunctionMode):
    """Random numbers have to come from a generator on their own device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        generator, device = kwargs.get("generator"), torch.device(kwargs.get("device") or "cpu")
        if generator is not None and generator.asked.type != device.type:
            raise WrongDevice(f"{func.__name__} on {device} draws from a generator on {generator.asked}")
        return func(*args, **kwargs)


class FakeGPU(TorchDispatchMode):
    """Operations on the GPU are checked and computed by a `FakeTensorMode`, those of the CPU as ever.

    With `strict`, an operation for which the host waits raises `HostSync`. Without, tensors may be copied to the GPU
    and wait, but values are never read back. `copies` counts the copies to the GPU, which a CUDA graph cannot hold.
    """

    def __init__(self, strict=True):
        super().__init__()
        self.fake, self.strict, self.copies = FakeTensorMode(), strict, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        on_gpu, to = any(leaf.device.type == "cuda" for leaf in leaves), kwargs.get("device")
        if not on_gpu and (to is None or to.type != "cuda"):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        self._check(func, leaves, args, kwargs)
        return func(*tree_map(self._known, args), **tree_map(self._known, kwargs))

    def _known(self, leaf):
        is_real = isinstance(leaf, torch.Tensor) and not isinstance(leaf, FakeTensor)
        return self.fake.from_tensor(leaf) if is_real else leaf

    def _check(self, func, leaves, args, kwargs):
        if func in COPIES:
            source, target = self._ways(func, args, kwargs)
            if source == "cuda" and target == "cpu":
                raise HostSync(f"{func} reads values of the GPU")
            self.copies += source != target
            waits = source != target and not (kwargs.get("non_blocking") or args[2:3] == (True,))
            if waits and self.strict:
                raise HostSync(f"{func} copies to the GPU and waits: pass non_blocking=True, or keep the tensor there")
            return
        if any(leaf.device.type == "cpu" and leaf.dim() for leaf in leaves):
            raise WrongDevice(f"{func} on a tensor of the GPU and one that was left on the CPU")
        if func in INDEXING and any(leaf.dtype == torch.bool for leaf in tree_leaves(args[1]) if leaf is not None):
            raise HostSync(f"{func} with a mask: its number of values depends on data; use masked_fill or where")

    @staticmethod
    def _ways(func, args, kwargs):
        if func is torch.ops.aten.copy_.default:
            return args[1].device.type, args[0].device.type
        return args[0].device.type, (kwargs.get("device") or args[0].device).type


@contextmanager
def fake_gpu(monkeypatch, strict=True):
    """Inside the block `cuda` is a fake GPU with bf16; yields its `FakeGPU`."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(torch, "Generator", Generator)
        gpu = FakeGPU(strict)
        with gpu.fake, gpu, Draws():
            yield gpu


def on_gpu(value):
    """A tensor of the fake GPU like one on the CPU, or a module with such parameters and buffers in place of its own.

    Call it inside `fake_gpu`.
    """
    if isinstance(value, torch.Tensor):
        like = {"dtype": value.dtype, "device": CUDA, "requires_grad": value.requires_grad}
        return torch.empty_strided(value.shape, value.stride(), **like)
    for module in value.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(on_gpu(parameter.detach()), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = on_gpu(buffer.detach())
    return value


def backward(loss):
    """`loss.backward()`, node by node: without a GPU torch's own engine does not start. Parameters get their `grad`."""
    waiting = _edges_into(loss.grad_fn)
    grads, ready = {loss.grad_fn: {0: torch.ones_like(loss)}}, [loss.grad_fn]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            got = grads.pop(node, {})
            if hasattr(node, "variable"):
                if got:
                    node.variable.grad = got[0]
                continue
            for (following, number), grad in _handed_on(node, got):
                if grad is not None:
                    own = grads.setdefault(following, {})
                    grad = _as_expected(grad, following._input_metadata[number])
                    own[number] = own[number] + grad if number in own else grad
                waiting[following] -= 1
                if not waiting[following]:
                    ready.append(following)


def _edges_into(root):
    """Number of edges into each node that can be reached from `root`."""
    counts, todo = {root: 0}, [root]
    while todo:
        for node, _ in todo.pop().next_functions:
            if node is not None:
                if node not in counts:
                    todo.append(node)
                counts[node] = counts.get(node, 0) + 1
    return counts


def _handed_on(node, got):
    """Edges of a node to the nodes behind it, each with the gradient that goes there."""
    edges = [edge for edge in node.next_functions if edge[0] is not None]
    if not got:
        return [(edge, None) for edge in edges]
    given = [got.get(number) for number in range(len(node._input_metadata))]
    is_python = isinstance(node, torch.autograd.function.BackwardCFunction)
    results = node.apply(*given) if is_python else node(*given)
    results = results if isinstance(results, tuple) else (results,)
    # of a Python function's inputs only tensors are nodes, of others also those that need no gradient
    wanted = node.needs_input_grad if is_python else [edge[0] is not None for edge in node.next_functions]
    return list(zip(edges, [grad for grad, want in zip(results, wanted, strict=True) if want], strict=True))


def _as_expected(grad, expected):
    """A gradient as torch's engine hands it on: of the type of its tensor, and summed to its shape."""
    if grad.device != expected.device:
        raise WrongDevice(f"a gradient is on {grad.device}, its tensor on {expected.device}")
    return grad.sum_to_size(expected.shape).to(expected.dtype)
