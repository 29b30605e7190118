"""The CUDA kernels without a card: their sources in Numba's simulator, against host and oracle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_kernels_in_the_simulator():
    # Numba decides between card and simulator when it is imported, for the whole process.
    here = Path(__file__).parent
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "simulated_kernels.py"]
    command += ["-W", "ignore:The 'generic' unit:DeprecationWarning"]  # of Numba's import, with NumPy 2.5
    run = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout
    assert "skipped" not in run.stdout
