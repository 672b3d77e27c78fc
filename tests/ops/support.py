"""What the tests of all operators share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mffpa_ext import _extension

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
KERNELS = _extension.is_compiled() and _extension.requested_backend() != "reference"
needs_kernels = pytest.mark.skipif(
    not KERNELS, reason=_extension.missing_reason() or "MFFPA_BACKEND=reference asks for the PyTorch code"
)
SANITIZED = "-fsanitize" in _extension.build_info.get("compiler", "")  # memory and times are then not the usual ones


def run_python(code: str, *arguments: str, **variables: str) -> str:
    """Standard output of `code` in a child with these environment variables; its traceback fails the test."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MFFPA_")}
    root = Path(__file__).resolve().parents[2]
    packages = Path(_extension.__file__).parents[1]  # of the package under test, installed or not
    environment.update(variables, PYTHONPATH=os.pathsep.join([str(packages), str(root)]), OMP_NUM_THREADS="1")
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_with_isa(isa: str, code: str) -> str:
    """`run_python` on the kernels built for an instruction set; skips the test where there are none, or no such CPU."""
    if isa not in _extension.build_info["isas"]:
        pytest.skip(f"not built; there are {_extension.build_info['isas']}")
    try:
        return run_python(code, MFFPA_CPU_ISA=isa, MFFPA_BACKEND="compiled")
    except AssertionError as failure:
        if "MFFPA_CPU_ISA: expected one that this machine can run" in str(failure):
            pytest.skip(f"this CPU has no {isa}")
        raise
