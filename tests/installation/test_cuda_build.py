"""The extension with CUDA kernels, built for and loaded into a torch without CUDA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cuda.conftest import toolkit as toolkit  # the fixture: skips without nvcc, but not in CI
from tests.cuda.test_registration import WITH_CUDA_KERNEL

from .conftest import Environment

pytestmark = pytest.mark.slow

STATE = """
import json, torch
import mffpa_ext
from mffpa_ext import _extension, ops
from mffpa_ext.ops import backend
y = ops.outlook_attention(torch.ones(1, 5, 4, 8), torch.zeros(1, 5, 4, 2 * 81), 2)
state = {"info": _extension.build_info, "on_cuda": sorted(backend._WITH_CUDA_KERNEL), "y": y.sum().item()}
print(json.dumps(state))
"""


def test_library_with_cuda_kernels_loads_into_a_cpu_build_of_torch(
    toolkit: None, checkout: Path, environment: Environment, tmp_path: Path
) -> None:
    environment.install("--no-build-isolation", ".", cwd=checkout, MFFPA_CUDA="1", TORCH_CUDA_ARCH_LIST="9.0")
    result = environment.run(STATE, tmp_path, PYTHONWARNINGS="error::RuntimeWarning")
    assert result.returncode == 0, result.stderr
    state = json.loads(result.stdout)
    assert state["info"]["has_cuda"] and state["info"]["cuda_archs"] == ["9.0"]
    assert set(state["on_cuda"]) == WITH_CUDA_KERNEL
    assert state["y"] > 0, "the CPU kernels serve CPU tensors as before"
