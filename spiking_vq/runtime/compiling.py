"""Run kernels, which are plain functions of tensors, compiled or as they are.

Inside `with run_with(compile=True):` they go through `torch.compile` (C++ on a CPU, Triton on a GPU), once for each
kind of layer and types, whatever the sizes; torch keeps the result on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache, partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor


def kernel(function: Callable, kind: Hashable | None, compile: bool) -> Callable:
    """Return `function` of tensors with its first argument `kind` bound (if not None), compiled or not."""
    if compile:
        return _compiled_kernel(function, kind)
    return function if kind is None else partial(function, kind)


@cache
def _compiled_kernel(function: Callable, kind: Hashable | None) -> Callable:
    bound = function if kind is None else partial(function, kind)

    def run(*tensors: Tensor | None) -> Any:
        return bound(*tensors)

    # A code object of its own: torch counts recompilations by code object, and gives up after a few.
    own = FunctionType(
        run.__code__.replace(co_name=function.__name__), run.__globals__, function.__name__, (), run.__closure__
    )
    traced = torch.compile(own, dynamic=True, fullgraph=True)

    def call(*tensors: Tensor | None) -> Any:
        # Detached: torch would guard the base of a view and requires_grad, and trace anew where they change.
        return traced(*(None if tensor is None else tensor.detach() for tensor in tensors))

    return call
