"""Kernels, plain functions of tensors, that are compiled or run as they are.

Inside `with run_with(compile=True):` they go through `torch.compile` (C++ on a CPU, Triton on a GPU), once for each
plan and types, whatever the sizes; torch keeps them on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cache, partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor


def kernel(function: Callable, plan: Hashable | None, compile: bool) -> Callable:
    """What to call for `function(plan, *tensors)`, or for `function(*tensors)` if there is no plan."""
    if compile:
        return _compiled_kernel(function, plan)
    return function if plan is None else partial(function, plan)


@cache
def _compiled_kernel(function: Callable, plan: Hashable | None) -> Callable:
    bound = function if plan is None else partial(function, plan)

    def run(*tensors: Tensor | None) -> Any:
        return bound(*tensors)

    # A code object of its own: torch counts recompilations by code object, and gives up after a few.
    own = FunctionType(
        run.__code__.replace(co_name=function.__name__), run.__globals__, function.__name__, (), run.__closure__
    )
    traced = torch.compile(own, dynamic=True, fullgraph=True)

    def call(*tensors: Tensor | None) -> Any:
        # Detached: what a tensor is a view of, and whether it asks for a gradient, would be guarded, and traced anew.
        return traced(*(None if tensor is None else tensor.detach() for tensor in tensors))

    return call
