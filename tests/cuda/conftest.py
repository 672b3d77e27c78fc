"""CUDA kernels on the CPU. Without nvcc these tests skip; MFFPA_REQUIRE_NVCC=1, as in CI, makes that an error."""

import os
from pathlib import Path

import pytest

from tests.cuda import harness


@pytest.fixture(scope="session")
def toolkit() -> None:
    """Skips where the kernels cannot be compiled."""
    if reason := harness.missing():
        if os.environ.get("MFFPA_REQUIRE_NVCC") == "1":
            pytest.fail(f"MFFPA_REQUIRE_NVCC=1: {reason}")
        pytest.skip(reason)


@pytest.fixture(scope="session")
def build_folder(toolkit: None, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kept between runs by pytest's cache, where that is on."""
    cache = getattr(pytestconfig, "cache", None)
    return cache.mkdir("cuda-kernels") if cache is not None else tmp_path_factory.mktemp("cuda-kernels")


@pytest.fixture(scope="session")
def kernels(build_folder: Path) -> harness.Kernels:
    """The kernels of csrc/cuda, emulated."""
    sources = (*harness.SOURCES, harness.INTERFACE)
    return harness.Kernels(harness.build_for_host(build_folder, "kernels", sources, link="-shared"))
