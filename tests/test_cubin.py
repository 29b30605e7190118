"""The CUDA kernels compiled for cards that are not here: registers, spills, and the width of accesses.

Needs the extra ``cuda13`` and, for the disassembler, ``nvidia-cuda-cuobjdump`` and
``nvidia-cuda-nvdisasm``; neither a card nor a driver.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from numscope.kernels import cuda_compile
from numscope.kernels.cuda_forms import ADD_UP, GROUPS, Form
from numscope.kernels.variants import Variant


def _tool(name: str) -> Path | None:
    """Find a tool of NVIDIA's wheels."""
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec is not None else None
    found = [file for place in places or [] for file in Path(place).glob(f"*/bin/{name}")]
    return found[0] if found else None


CUOBJDUMP, NVDISASM = _tool("cuobjdump"), _tool("nvdisasm")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None or CUOBJDUMP is None or NVDISASM is None,
    reason="needs numba-cuda, nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm",
)

ARCHITECTURES = [(8, 0), (9, 0), (10, 0)]
FORMS = [
    Form("zero", Variant("uint64", "uint64")),
    Form("copy", Variant("uint64", "uint64")),
    Form("blend", Variant("float32", "float32", add=True)),
    Form("blend", Variant("float32", "bfloat16", add=True, zero_source=True)),
    Form("blend", Variant("bfloat16", "float32")),
    Form("blend", Variant("float32", "bfloat16", add=True, measure=True)),
    Form("blend", Variant("float32", "float32", write=False, measure=True)),
    Form("blend", Variant("float64", "float64", add=True, measure=True)),
    Form("scatter", Variant("float32", "float32", add=True)),
]
REGISTERS = 80
"""With 128 threads a block, this many leave room for six blocks on a multiprocessor: 24 of its 64 warps,
each of which has at least 1.5 KiB of loads under way."""


def _run(*command: object) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def _opcodes(file: Path) -> list[str]:
    """List the memory instructions of a cubin in their order."""
    return re.findall(r"\b((?:LD|ST)[A-Z]*(?:\.[A-Z0-9]+)*)\b\s", _run(NVDISASM, file))


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=lambda c: f"sm_{c[0]}{c[1]}")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.key)
def test_machine_code(form, capability, tmp_path):
    file = tmp_path / "kernel.cubin"
    file.write_bytes(cuda_compile.cubin(form, capability))
    usage = _run(CUOBJDUMP, "-res-usage", file)
    assert f"Function {cuda_compile.entry_name(form)}:" in usage
    figures = {name: int(value) for name, value in re.findall(r"\b([A-Z]+):(\d+)", usage)}
    assert figures["REG"] <= REGISTERS
    assert figures["STACK"] == figures["LOCAL"] == 0
    opcodes = _opcodes(file)
    assert not [name for name in opcodes if name.startswith(("LDL", "STL"))]  # spills
    assert ".FTZ" not in _run(NVDISASM, file)  # subnormal numbers count
    variant = form.variant
    reads = form.kernel != "zero" and "float32" in (variant.source, variant.add and variant.destination)
    wide_loads = [place for place, name in enumerate(opcodes) if name == "LDG.E.128"]
    wide_stores = [place for place, name in enumerate(opcodes) if name == "STG.E.128"]
    assert len(wide_stores) >= GROUPS * variant.write * (form.destination_size == max(_sizes(form)))
    if reads or form.kernel == "copy":
        assert len(wide_loads) >= GROUPS
        # All of a thread's loads are under way before it waits for the first to store.
        assert not wide_stores or wide_loads[GROUPS - 1] < wide_stores[0]


@pytest.mark.parametrize("capability", ARCHITECTURES, ids=lambda c: f"sm_{c[0]}{c[1]}")
def test_the_second_launch_loads_many_rows_before_it_adds(capability, tmp_path):
    file = tmp_path / "kernel.cubin"
    file.write_bytes(cuda_compile.cubin(ADD_UP, capability))
    figures = dict(re.findall(r"\b([A-Z]+):(\d+)", _run(CUOBJDUMP, "-res-usage", file)))
    assert int(figures["REG"]) <= 64  # what 1024 threads can have
    assert figures["STACK"] == figures["LOCAL"] == "0"
    code = re.findall(r"\b(LDG\.E\.64|DADD)\b", _run(NVDISASM, file))
    assert max(len(list(run)) for name, run in groupby(code) if name == "LDG.E.64") >= 16
    assert ".FTZ" not in _run(NVDISASM, file)


def _sizes(form: Form) -> tuple[int, int]:
    return form.destination_size, form.source_size


def test_compiled_once_for_all_processes(tmp_path):
    form = Form("blend", Variant("float32", "float32", add=True))
    code = (
        "from numscope.kernels import cuda_compile as c; from numscope.kernels.cuda_forms import Form;"
        "from numscope.kernels.variants import Variant; import sys;"
        "c.cubin(Form('blend', Variant('float32', 'float32', add=True)), (9, 0));"
        "print('numba.cuda.compiler' in sys.modules)"
    )
    cuda_compile.cubin(form, (9, 0))
    assert _run(sys.executable, "-c", code).split() == ["False"]


def test_old_cards_are_refused():
    with pytest.raises(RuntimeError, match=r"compute capability 7.0, expected 7.5 \(Turing\) or newer"):
        cuda_compile.cubin(FORMS[0], (7, 0))


def test_a_missing_compiler_names_the_line_that_installs_it(monkeypatch):
    from cuda.pathfinder import DynamicLibNotFoundError
    from numba import cuda

    def fail(*arguments, **options):
        raise DynamicLibNotFoundError('Failure finding "libnvvm.so": No such file')

    monkeypatch.setattr(cuda, "compile", fail)
    with pytest.raises(RuntimeError, match=r'Failure finding "libnvvm.so"; pip install .numscope\[cuda13\]'):
        cuda_compile._compile(FORMS[0], (9, 0))


def test_numba_cuda_is_imported_without_row_stack():
    # numba-cuda wants a name that NumPy 2.5 has no more; taken away here where it is still there.
    code = (
        "import numpy as np; vars(np).pop('row_stack', None);"
        "from numscope.kernels.cuda_compile import _compile; from numscope.kernels.cuda_forms import Form;"
        "from numscope.kernels.variants import Variant;"
        "form = Form('zero', Variant('uint64', 'uint64'));"
        "print(len(_compile(form, (9, 0))) > 0, hasattr(np, 'row_stack'))"
    )
    assert _run(sys.executable, "-W", "ignore", "-c", code).split() == ["True", "False"]
