"""What there is: versions, processor, threads, arenas, devices."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from numscope import kernels
from numscope.cuda_device import CUPY, CudaState, describe, driver_release, toolchain
from numscope.defaults import default_arena

__all__ = ["describe_processor", "take_inventory", "version_of"]

PACKAGES = (
    *("numpy", "numba", "ml_dtypes", "safetensors", "rich"),
    *("numba-cuda", "cuda-core", "mpi4py", "torch", "jax"),
)
# What the compiled kernels gain from, as Linux spells it on x86-64 and aarch64.
FEATURES = (
    *("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_bf16", "avx512_fp16"),
    *("asimd", "asimdhp", "sve", "sve2", "bf16"),
)


def take_inventory() -> dict[str, Any]:
    """Return what `numscope info` shows, as plain values. No package is imported for it."""
    state = describe()
    return {
        "versions": _versions(),
        "system": {"platform": platform.platform(), "huge_pages": _huge_pages()},
        "processor": describe_processor(),
        "threads": {"processors": _available(), "kernels": kernels.get_num_threads()},
        "default_arena": asdict(default_arena("cpu").stats()),
        "devices": _devices(state),
        "cuda": {
            "driver": _driver(state),
            "runtime": state.runtime or "none",
            "cards": "; ".join(state.cards) or "none",
            "toolchain": ", ".join(f"{name} {found or 'not by pip'}" for name, found in toolchain().items()),
            "missing": "; ".join(state.missing) or "nothing",
        },
    }


def _driver(state: CudaState) -> str:
    """Name the driver's release, and the newest CUDA it knows, which CuPy tells."""
    known = f"CUDA {state.driver}" if state.driver else None
    return ", ".join(filter(None, (driver_release(), known))) or "none"


def _versions() -> dict[str, str]:
    versions = {"numscope": version_of("numscope"), "python": platform.python_version()}
    versions |= {name: version_of(name) for name in PACKAGES}
    found = [name for name in CUPY if version_of(name) != "not installed"]
    versions["cupy"] = f"{version_of(found[0])} ({found[0]})" if found else "not installed"
    return versions


def version_of(package: str) -> str:
    """Return the version of an installed package, or the words "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def describe_processor() -> dict[str, Any]:
    """Return the processor's model, its architecture and those of its features that kernels can use."""
    model, flags = platform.processor() or platform.machine(), list[str]()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = {
            key.strip(): value.strip()
            for key, _, value in (line.partition(":") for line in cpuinfo.read_text().splitlines())
        }
        model = fields.get("model name", model)
        flags = fields.get("flags", fields.get("Features", "")).split()
    return {
        "model": model,
        "architecture": platform.machine(),
        "features": [name for name in FEATURES if name in flags],
    }


def _available() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _huge_pages() -> str:
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists():
        return "unknown"
    return setting.read_text().partition("[")[2].partition("]")[0]


def _devices(state: CudaState) -> dict[str, str]:
    devices = {name: f"available as {name!r}" for name in ("cpu", "cuda", "null")}
    if state.missing:
        devices["cuda"] = "not available: see cuda missing"
    return devices
