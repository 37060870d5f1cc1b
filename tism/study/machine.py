"""The part of the processor in a result: the number of threads and the kernels of a profile.

A sum of floating-point numbers depends on its order. Threads and vector instructions decide it, and
torch chooses both by the processor that it finds. A profile whose networks another machine is to
make again fixes them in its section `machine`:

threads : of every operation
kernels : a family of `KERNELS`, the newest instructions that are used even where newer ones exist

The libraries read their variables once, at their first operation, so that they have to be set
before Python starts: `start_as` starts it again, `check_machine` refuses to compute otherwise.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import torch

# MKL has kernels that give the same bits on every processor under this one name only. NumPy, which
# computes the targets, leaves out AVX-512.
KERNELS = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "COMPATIBLE",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    }
}


def variables(machine: Mapping[str, Any]) -> dict[str, str]:
    """The environment variables of a profile's section `machine`; none for an empty one."""
    if not machine:
        return {}
    if set(machine) != {"threads", "kernels"} or machine["kernels"] not in KERNELS:
        raise ValueError(
            f"machine must have threads and kernels (one of {', '.join(KERNELS)}), "
            f"got {dict(machine)}"
        )
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(machine["threads"]))
    return {"TISM_DEVICE": "cpu", **threads, **KERNELS[machine["kernels"]]}


def start_as(machine: Mapping[str, Any]) -> None:
    """Start this program again where its environment is not that of a profile's `machine`."""
    wanted = variables(machine)
    if _missing(wanted):
        sys.stdout.flush()
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **wanted})


def check_machine(machine: Mapping[str, Any]) -> None:
    """Raise RuntimeError where this process computes otherwise than a profile's `machine` says."""
    wanted = variables(machine)
    if not wanted:
        return
    if missing := _missing(wanted):
        settings = " ".join(f"{name}={value}" for name, value in missing.items())
        raise RuntimeError(
            "the networks of this profile are computed with fixed kernels; "
            f"start Python with {settings}"
        )
    found = {"threads": torch.get_num_threads(), "kernels": torch.backends.cpu.get_cpu_capability()}
    fixed = {"threads": machine["threads"], "kernels": machine["kernels"].upper()}
    if found != fixed:
        raise RuntimeError(
            f"this process computes with {found}, the networks of this profile with {fixed}: set "
            "the environment before Python starts and leave torch's threads as they are"
        )


def _missing(wanted: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in wanted.items() if os.environ.get(name) != value}
