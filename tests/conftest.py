"""Fixtures that all tests share."""

from __future__ import annotations

import pytest


def _has_cuda() -> bool:
    try:
        import cupy

        return bool(cupy.cuda.runtime.getDeviceCount() > 0)
    except Exception:  # no CuPy, or no driver: CuPy has its own error types for the latter
        return False


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """Each kind of device that is there."""
    if request.param == "cuda" and not _has_cuda():
        pytest.skip("no CUDA device")
    return str(request.param)
