"""The machine: devices, compiler, memory, versions."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from spiking_vq.errors import InputError, require

MOST_PROCESSES = max(64, os.cpu_count() or 1)
"""Processes that may share a CPU at most; each takes its own memory."""


def check_device(name: str, devices: int = 1) -> None:
    """Raise `InputError` unless torch can compute on the device of this name, or on so many of this kind."""
    require(devices >= 1, "devices", "at least 1", devices)
    try:
        device = torch.device(name)
        if devices > 1 and device.index is not None:
            raise InputError(f"device={name} is one device: with devices={devices} it is device={device.type}")
        if device.type == "cpu" and device.index is not None:
            raise InputError(f"device={name} is no device of its own: use device=cpu")
        torch.zeros(1, device=name).cpu()  # `meta` computes nothing
        most = torch.cuda.device_count() if device.type == "cuda" else MOST_PROCESSES
        require(devices <= most, "devices", f"at most {most} of device={device.type}", devices)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device={name} cannot be used here ({reason}): try device=cpu") from error


def emulates_bf16(device: str) -> bool:
    """Whether the device computes bf16 without instructions for it, several times slower than fp32.

    So do x86 processors without AVX-512's or AMX's; of others nothing is known here, and the answer is no.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if torch.device(device).type != "cpu" or not cpuinfo.exists():
        return False
    flags = next((line.split() for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), [])
    return bool(flags) and not {"avx512_bf16", "amx_bf16", "avx_ne_convert"} & set(flags)


def can_compile() -> bool:
    """Whether `torch.compile` works here; tries it, and prints a line if it does not."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8))
    except Exception as error:  # whatever a missing compiler or header surfaces as
        print(f"torch.compile does not work here ({type(error).__name__}): going on without it, which is slower")
        return False
    return True


COMPILE_FROM = 10_000
"""Network evaluations from which on sampling compiles first: about the break-even with an empty cache of kernels."""


def worth_compiling(num_evaluations: int) -> bool:
    """Whether compiling saves more time in so many evaluations of the network than it takes, and works."""
    return num_evaluations >= COMPILE_FROM and can_compile()


def peak_memory_mb(device: str) -> float:
    """Peak memory of this process in MB: of tensors on a GPU, of the whole process on a CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)  # bytes there, kilobytes elsewhere


def describe_machine(device: str) -> dict[str, Any]:
    """Device, CPU, cores, threads and torch's version, for reports."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere Python knows
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device,
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
