"""The emulation of CUDA computes what kernels mean, and the sanitizers see faults in them: of threads, a racecheck."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cuda import harness

PROBE = (harness.HERE / "probe_kernels.cu",)
MEMORY = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
RACES = ("-fsanitize=thread",)


def start(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # ThreadSanitizer maps fixed addresses, which a kernel that spreads the address space widely may have taken.
    fixed_addresses = ["setarch", "-R"] if shutil.which("setarch") else []
    command = [*fixed_addresses, str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def check_clean(result: subprocess.CompletedProcess[str]) -> None:
    # The emulation tells AddressSanitizer of every context that it changes to; it warns all the same.
    reports = [line for line in result.stderr.splitlines() if "ASan doesn't fully support makecontext" not in line]
    assert result.returncode == 0 and result.stdout == "finished\n" and not reports, result.stdout + result.stderr


def test_emulated_kernels_compute_what_they_should(build_folder: Path) -> None:
    check_clean(start(harness.build_for_host(build_folder, "probe", PROBE), "none"))


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["global read", "global write", "shared read", "shared write"])
def test_accesses_out_of_bounds_are_reported(build_folder: Path, fault: str) -> None:
    result = start(harness.build_for_host(build_folder, "probe_memory", PROBE, MEMORY), fault)
    assert result.returncode != 0, result
    assert "AddressSanitizer: heap-buffer-overflow" in result.stderr, result.stderr
    assert "probe_kernels.cu" in result.stderr, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["no __syncthreads", "no __syncwarp"])
def test_missing_barriers_are_reported(build_folder: Path, fault: str) -> None:
    result = start(harness.build_for_host(build_folder, "probe_races", PROBE, RACES), fault)
    assert result.returncode != 0, result
    assert "ThreadSanitizer: data race" in result.stderr and "probe_kernels.cu" in result.stderr, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flags"), [("probe_memory", MEMORY), ("probe_races", RACES)], ids=["memory", "races"])
def test_sanitizers_find_nothing_in_a_correct_kernel(build_folder: Path, name: str, flags: tuple[str, ...]) -> None:
    check_clean(start(harness.build_for_host(build_folder, name, PROBE, flags), "none"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "flags"), [("operators_memory", MEMORY), ("operators_races", RACES)], ids=["memory", "races"]
)
def test_sanitizers_find_nothing_in_the_operators(build_folder: Path, name: str, flags: tuple[str, ...]) -> None:
    sources = (*harness.SOURCES, harness.HERE / "memory_check.cu")
    check_clean(start(harness.build_for_host(build_folder, name, sources, flags)))
