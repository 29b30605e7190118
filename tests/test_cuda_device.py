"""CUDA devices where there is none: what is said about it, and the part of CuPy that works without."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
import types

import numpy as np
import pytest

import numscope as ns
from numscope import cuda_device
from numscope.inventory import take_inventory


class FakeRuntime(types.ModuleType):
    """CUDA's answers about itself; anything that would make a context is not there to be called."""

    hostAllocPortable = 1  # noqa: N815 - CUDA's name

    class CUDARuntimeError(RuntimeError):
        pass

    def __init__(self, driver=13000, cards=1, error=None, capability=(9, 0)):
        super().__init__("cupy.cuda.runtime")
        self.driver, self.cards, self.error, self.capability = driver, cards, error, capability

    def runtimeGetVersion(self):  # noqa: N802 - CUDA's names
        return 13020

    def driverGetVersion(self):  # noqa: N802
        return self.driver

    def getDeviceCount(self):  # noqa: N802
        if self.error:
            raise self.CUDARuntimeError(self.error)
        return self.cards

    def getDevice(self):  # noqa: N802
        return 0

    def getDeviceProperties(self, number):  # noqa: N802
        major, minor = self.capability
        return {"name": b"Card", "major": major, "minor": minor, "totalGlobalMem": 8 << 30}


@pytest.fixture
def pretend(monkeypatch):
    """Return a function that puts an answering runtime in the place of CuPy's, with all packages there."""

    def put(runtime, packages="1.0"):
        cupy, cuda = types.ModuleType("cupy"), types.ModuleType("cupy.cuda")
        cupy.cuda, cuda.runtime = cuda, runtime
        for name, module in (("cupy", cupy), ("cupy.cuda", cuda), ("cupy.cuda.runtime", runtime)):
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(cuda_device, "_version", lambda package: packages)
        monkeypatch.setattr(cuda_device, "_found", {})
        monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)

    return put


def refusal(device="cuda"):
    assert isinstance(ns.cuda_available(), bool)
    with pytest.raises(ns.DeviceUnavailableError) as caught:
        ns.Arena("1 MiB", device=device)
    return str(caught.value)


def test_missing_packages_name_the_line_that_installs_them(pretend):
    pretend(FakeRuntime(), packages=None)
    assert not ns.cuda_available()
    assert "cupy, numba-cuda, cuda-core not installed: pip install 'numscope[cuda13]'" in refusal()
    pretend(FakeRuntime(), packages="0.7.0")
    assert "cuda-core 0.7.0 is too old, expected 1.0: pip install -U cuda-core" in refusal()


@pytest.mark.parametrize(
    ("runtime", "text"),
    [
        (FakeRuntime(driver=0, error="cudaErrorInsufficientDriver"), "no NVIDIA driver was found"),
        (
            FakeRuntime(driver=12020, error="cudaErrorInsufficientDriver"),
            "the driver knows CUDA 12.2, CuPy was built for 13.2: update the driver, or pip uninstall "
            "cupy-cuda13x; pip install 'numscope[cuda12]'",
        ),
        (FakeRuntime(error="cudaErrorNoDevice: no device"), "CUDA fails: cudaErrorNoDevice"),
        (FakeRuntime(cards=0), "the driver sees no card"),
    ],
)
def test_drivers_that_do_not_do(pretend, runtime, text):
    pretend(runtime)
    assert not ns.cuda_available()
    assert text in refusal()
    assert text in refusal("cuda:1")


def test_cards_that_do_not_do(pretend):
    pretend(FakeRuntime())
    assert ns.cuda_available()
    assert 'no device "cuda:1": the driver sees 1, numbered from 0 (Card, sm 9.0' in refusal("cuda:1")
    pretend(FakeRuntime(capability=(7, 0)))
    assert "sm 7.0" in refusal()
    assert "expected sm 7.5 (Turing) or newer" in refusal()


def test_a_device_is_named_by_its_number_and_is_one(pretend):
    from numscope.device import resolve_device

    pretend(FakeRuntime(cards=2))
    assert resolve_device("cuda").name == "cuda:0"
    assert resolve_device("cuda:1").name == "cuda:1"
    assert resolve_device("cuda") is resolve_device("cuda:0")
    for name in ("cuda:", "cuda:x", "cuda:-1", "CUDA"):
        assert "expected one of" in refusal(name)


@pytest.mark.parametrize("error", [MemoryError("Out of memory"), FakeRuntime.CUDARuntimeError("cudaError")])
def test_a_block_that_is_too_large_names_what_is_free(pretend, monkeypatch, error):
    runtime = FakeRuntime()
    runtime.memGetInfo = lambda: (3 << 30, 8 << 30)
    pretend(runtime)
    sys.modules["cupy"].cuda.Device = lambda number: contextlib.nullcontext()

    def refuse(*arguments):
        raise error

    monkeypatch.setattr(cuda_device, "CudaMemory", refuse)
    with pytest.raises(ns.ArenaExhausted) as caught:
        ns.Arena("10 GiB", device="cuda")
    text = f"does not fit on cuda:0: {3 << 30} of {8 << 30} bytes are free there"
    assert text in str(caught.value)
    assert (caught.value.requested, caught.value.available) == (10 << 30, 3 << 30)
    assert caught.value.capacity == 8 << 30


def test_gradients_in_host_memory_are_no_gradients_of_a_card(monkeypatch):
    acc = ns.GradientAccumulator({"w": 3, "b": 2}, arena=ns.Arena("1 KiB"))
    monkeypatch.setattr(ns.Workspace, "device", property(lambda self: "cuda:0"))
    with pytest.raises(ns.BindingError, match="gradient 'w' is on cpu, expected it on cuda:0; copy it there"):
        acc.add({"w": [1.0, 2.0, 3.0], "b": [1.0, 2.0]})


def test_the_state_is_plain_data(pretend):
    pretend(FakeRuntime(driver=13010, cards=2))
    state = cuda_device.describe()
    assert (state.runtime, state.driver, state.missing) == ("13.2", "13.1", ())
    assert state.cards == ("Card, sm 9.0, 8.00 GiB",) * 2


def test_the_toolchain_has_one_name_for_cuda_12_and_13(monkeypatch):
    installed = {"nvidia-nvvm": "13.5", "nvidia-cuda-nvrtc-cu12": "12.9"}
    monkeypatch.setattr(cuda_device, "_version", installed.get)
    assert cuda_device.toolchain() == {"NVVM": "13.5", "nvJitLink": None, "NVRTC": "12.9", "cuBLAS": None}
    cuda = take_inventory()["cuda"]
    assert cuda["toolchain"] == "NVVM 13.5, nvJitLink not by pip, NVRTC 12.9, cuBLAS not by pip"


def test_the_simulator_is_no_device(pretend, monkeypatch):
    pretend(FakeRuntime())
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert not ns.cuda_available()
    assert "NUMBA_ENABLE_CUDASIM is set" in refusal()


def test_pinned_memory_is_for_a_device(pretend):
    pretend(FakeRuntime(driver=0, error="cudaErrorInsufficientDriver"))
    with pytest.raises(
        ns.DeviceUnavailableError, match="pinned memory is for a CUDA device: no NVIDIA driver"
    ):
        ns.Arena("1 MiB", pinned=True)
    with pytest.raises(ns.BindingError, match='only memory of device "cpu" can be pinned'):
        ns.Arena("1 MiB", device="null", pinned=True)


def test_no_more_memory_is_pinned_than_an_arena_needs(pretend):
    pretend(FakeRuntime())
    made = []

    class PinnedMemory:
        def __init__(self, nbytes, flags=0):
            self.buffer = np.empty(nbytes, np.uint8)
            self.ptr = self.buffer.ctypes.data
            made.append(nbytes)

    cuda = sys.modules["cupy"].cuda
    cuda.PinnedMemory = PinnedMemory
    cuda.alloc_pinned_memory = lambda nbytes: PinnedMemory(1 << (nbytes - 1).bit_length())  # as CuPy's pool
    arena = ns.Arena("1 MiB", pinned=True)
    ns.Workspace(arena=arena).zeros("x", 1 << 18)
    assert 1 << 20 <= made[0] <= (1 << 20) + 4096


def test_kernels_without_cuda_core_name_the_line_that_installs_it(monkeypatch):
    pytest.importorskip("cupy")
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    monkeypatch.delitem(sys.modules, "numscope.kernels.cuda_launch", raising=False)
    with pytest.raises(RuntimeError, match=r"need cuda-core 1 or newer: .* pip install 'numscope\[cuda13\]'"):
        importlib.import_module("numscope.kernels.cuda_launch")


def test_a_numba_cuda_that_does_not_fit_numba_names_the_line_that_installs_another(monkeypatch):
    import numba
    from numscope.kernels import cuda_compile

    class Unfit:
        def find_spec(self, name, path, target=None):
            if name == "numba.cuda":
                raise AttributeError("module 'numba.cuda.types' has no attribute 'NPDatetime'")

    monkeypatch.setattr(sys, "meta_path", [Unfit(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "numba.cuda", raising=False)
    monkeypatch.delattr(numba, "cuda", raising=False)
    with pytest.raises(RuntimeError, match=r"fits Numba: .*'NPDatetime'; pip install 'numscope\[cuda13\]'"):
        cuda_compile._prepare_numba()


def test_importing_numscope_imports_no_cupy():
    code = "import sys, numscope as ns; ns.Workspace().zeros('x', 3); print('cupy' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]


def test_the_driver_is_named_by_its_release_too(pretend, monkeypatch, tmp_path):
    release = tmp_path / "version"
    monkeypatch.setattr(cuda_device, "RELEASE", release)
    pretend(FakeRuntime(driver=13000))
    assert take_inventory()["cuda"]["driver"] == "CUDA 13.0"
    release.write_text("580.95.05\n")
    assert take_inventory()["cuda"]["driver"] == "580.95.05, CUDA 13.0"
