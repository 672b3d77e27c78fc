"""A build with sanitizers sees when a kernel reads one element too many from a tensor, or memory that nobody wrote.

The faults that are planted in C++, tests/cpp/planted_faults.cpp, show that kernels themselves are watched.
"""

import re

import pytest
import torch

from tests.ops.support import DTYPES, SANITIZED, run_with_isa

sanitized = pytest.mark.skipif(not SANITIZED, reason="a build without sanitizers; see .ci/sanitize")

READ_BEYOND = """
import torch
from mffpa_ext import ops
x = torch.ones(1, 1, 4, 16, dtype=torch.{dtype})
ops.feature_norm(x)
print("The tensor still promises 64 elements, its memory ends before the last.", flush=True)
x.untyped_storage().resize_(63 * x.element_size())
ops.feature_norm(x)
"""


@sanitized
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float16", 2)])
def test_read_beyond_a_tensor_is_reported(isa: str, dtype: str, size: int) -> None:
    with pytest.raises(AssertionError) as child:
        run_with_isa(isa, READ_BEYOND.format(dtype=dtype))
    report = str(child.value)
    assert re.search(r"ERROR: AddressSanitizer.*\nREAD of size .*\n(.*\n)*?.*feature_norm_forward_kernel\.cpp", report)
    assert re.search(rf"is located 0 bytes (to the right of|after) {63 * size}-byte region", report), report


@sanitized
def test_unwritten_memory_holds_no_numbers() -> None:
    """So that results which depend on it are NaN, and fail the other tests."""
    for dtype in DTYPES:
        assert torch.empty(10_000, dtype=dtype).isnan().all(), "run it by .ci/sanitize, which sets ASAN_OPTIONS"
