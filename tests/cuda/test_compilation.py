"""nvcc compiles every .cu file for each generation of GPUs without a warning, and no kernel spills registers."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.cuda import harness

ARCHITECTURES = ("80", "90", "100", "120")
# As python/build_ninja.py calls it, with warnings as errors and a report about every kernel.
FLAGS = ("-std=c++20", "-O3", "-Xcompiler=-fPIC,-Wall,-Werror", "-Werror=all-warnings", "-Xptxas=-v")
KERNELS = (
    "tiled_forward", "general_forward", "tiled_logits", "tiled_value", "general_logits", "general_value",
    "7moments", "9normalise", "normalise_and_pool", "gradient_sums", "gradient_of_x",
    "mean_along", "mean_across", "5weigh", "gate_gradient", "merge_gradients", "coordinate_logits",
)  # fmt: skip


@pytest.fixture(scope="session")
def compiled(build_folder: Path) -> tuple[Path, str]:
    """A library of all kernels and kernels_interface.cpp by nvcc, and the compiler's report."""
    digest = harness.digest((*harness.SOURCES, harness.INTERFACE), [*FLAGS, *ARCHITECTURES, str(harness.nvcc())])
    library, report = build_folder / f"device-{digest}", build_folder / f"device-{digest}.txt"
    if library.exists():
        return library, report.read_text()
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES]

    def compile_one(source: Path) -> tuple[Path, str]:
        product = build_folder / f"device-{source.stem}.{os.getpid()}.o"
        command = [harness.nvcc(), *FLAGS, *targets, f"-I{harness.ROOT / 'csrc'}", "-c", str(source)]
        return product, harness.run(*command, "-o", str(product))

    with ThreadPoolExecutor(2) as pool:  # nvcc's own --threads would mix the reports
        products, reports = zip(*pool.map(compile_one, (*harness.SOURCES, harness.INTERFACE)), strict=True)
    report.write_text("".join(reports))
    harness.run(harness.nvcc(), "-shared", *map(str, products), "-o", str(library))
    for product in products:
        product.unlink()
    return library, report.read_text()


def test_no_kernel_spills_registers(compiled: tuple[Path, str]) -> None:
    """Of any element type; at head size 64, float32, bfloat16 and float16 run on the tiled kernels."""
    _, report = compiled
    entries = re.findall(
        r"Compiling entry function '(\S+)' for 'sm_(\d+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads",
        report, re.DOTALL,
    )  # fmt: skip
    seen = {(kernel, architecture) for name, architecture, *_ in entries for kernel in KERNELS if kernel in name}
    assert seen == {(kernel, architecture) for kernel in KERNELS for architecture in ARCHITECTURES}
    assert not [entry for entry in entries if entry[2:] != ("0", "0")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which would read from the host's memory")
def test_launch_errors_are_raised_with_their_text(compiled: tuple[Path, str]) -> None:
    kernels = harness.Kernels(compiled[0])
    shape = harness.OutlookShape(1, 4, 4, 1, 8, 3, 1, 1, 4, 4)
    value, logits = torch.zeros(1, 4, 4, 8), torch.zeros(1, 4, 4, 81)
    with pytest.raises(RuntimeError, match="launching a CUDA kernel failed: cudaError[A-Za-z]+: .*(CUDA|device)"):
        kernels("outlook_attention_forward", torch.float32, shape, 1.0, value, logits, None, value)
