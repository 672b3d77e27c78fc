"""Decisions that are taken before anything is compiled, on pretended machines."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mffpa_ext._source_hash import source_hash

from .conftest import ROOT

NVCC = """#!/bin/sh
case "$1" in
  --version) echo "Cuda compilation tools, release {release}, V{release}.88" ;;
  --list-gpu-arch) echo "compute_75 compute_80 compute_90" ;;
  *) {compile} ;;
esac
"""


@pytest.fixture
def build_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the modules under python/ importable, and forgets them again."""
    if not (ROOT / "setup.py").is_file():
        pytest.skip("the tests do not lie in a source tree")
    monkeypatch.syspath_prepend(str(ROOT / "python"))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("build_", "mffpa_build")):
            del sys.modules[name]


@pytest.fixture
def build_cuda(build_modules: None) -> ModuleType:
    import build_cuda

    return build_cuda


def pretend_nvcc(folder: Path, release: str = "13.0", compile: str = "exit 0") -> dict[str, str]:
    """An environment whose only nvcc answers as told."""
    program = folder / "bin" / "nvcc"
    program.parent.mkdir()
    program.write_text(NVCC.format(release=release, compile=compile))
    program.chmod(0o755)
    return {"CUDA_HOME": str(folder), "PATH": ""}


def test_cuda_is_planned_for_the_architectures_that_nvcc_knows(build_cuda: ModuleType, tmp_path: Path) -> None:
    plan = build_cuda.plan_cuda(pretend_nvcc(tmp_path), "2.13.0+cu130", "13.0", "g++", sources=True)
    assert plan.enabled and plan.nvcc_version == "13.0" and plan.shared_runtime
    assert plan.architectures == ("7.5", "8.0", "9.0")


def test_cuda_architectures_can_be_named(build_cuda: ModuleType, tmp_path: Path) -> None:
    environment = {**pretend_nvcc(tmp_path), "TORCH_CUDA_ARCH_LIST": "8.0 9.0a+PTX"}
    plan = build_cuda.plan_cuda(environment, "2.13.0+cu130", "13.0", "g++", sources=True)
    assert plan.gencode_flags() == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90a,code=compute_90a",
    ]


def test_cuda_can_be_forced_for_a_cpu_torch(build_cuda: ModuleType, tmp_path: Path) -> None:
    environment = {**pretend_nvcc(tmp_path), "MFFPA_CUDA": "1"}
    plan = build_cuda.plan_cuda(environment, "2.13.0+cpu", None, "g++", sources=True)
    assert plan.enabled and not plan.shared_runtime


@pytest.mark.parametrize(
    ("variables", "torch_cuda", "sources", "reason"),
    [
        ({"MFFPA_CUDA": "0"}, "13.0", True, "on request"),
        ({}, None, True, "is a build without CUDA"),
        ({}, "13.0", False, "no .cu file"),
        ({}, "12.8", True, "torch was built for CUDA 12.8"),
        ({"TORCH_CUDA_ARCH_LIST": "5.0"}, "13.0", True, "none of the architectures 5.0"),
    ],
)
def test_cuda_is_left_out_with_a_reason(
    build_cuda: ModuleType,
    tmp_path: Path,
    variables: dict[str, str],
    torch_cuda: str | None,
    sources: bool,
    reason: str,
) -> None:
    environment = {**pretend_nvcc(tmp_path), **variables}
    plan = build_cuda.plan_cuda(environment, "2.13.0", torch_cuda, "g++", sources)
    assert not plan.enabled and reason in plan.reason


def test_nvcc_that_refuses_the_host_compiler_is_not_used(build_cuda: ModuleType, tmp_path: Path) -> None:
    complaint = "echo '#error -- unsupported GNU version!' >&2; exit 1"
    environment = pretend_nvcc(tmp_path, compile=complaint)
    plan = build_cuda.plan_cuda(environment, "2.13.0+cu130", "13.0", "g++", sources=True)
    assert "unsupported GNU version" in plan.reason
    with pytest.raises(SystemExit, match="MFFPA_CUDA=1, but .*unsupported GNU version"):
        build_cuda.plan_cuda({**environment, "MFFPA_CUDA": "1"}, "2.13.0+cu130", "13.0", "g++", sources=True)


def test_missing_nvcc_is_no_error(build_cuda: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_cuda, "find_nvcc", lambda environment: None)
    plan = build_cuda.plan_cuda({}, "2.13.0+cu130", "13.0", "g++", sources=True)
    assert plan.reason == "nvcc was not found (torch 2.13.0+cu130, CUDA 13.0); set CUDA_HOME and reinstall"


@pytest.mark.parametrize(("name", "value"), [("MFFPA_BUILD", "yes"), ("MFFPA_CUDA", "on")])
def test_wrong_switches_are_refused(build_cuda: ModuleType, name: str, value: str) -> None:
    import build_compiler

    with pytest.raises(SystemExit, match=f"{name} must be .* got '{value}'"):
        build_compiler.find_compiler({name: value})
        build_cuda.plan_cuda({name: value}, "2.13.0", None, "g++", sources=True)


def test_compiler_that_cannot_build_is_as_good_as_none(build_modules: None, tmp_path: Path) -> None:
    import build_compiler

    old = tmp_path / "old-g++"
    old.write_text("#!/bin/sh\necho 'error: unrecognized option -std=c++20' >&2; exit 1\n")
    old.chmod(0o755)
    compiler = build_compiler.find_compiler({"CXX": str(old), "PATH": ""})
    assert "old-g++" in compiler.unusable_because and "unrecognized option" in compiler.unusable_because
    assert "looked for no-such-compiler" in build_compiler.find_compiler({"CXX": "no-such-compiler"}).unusable_because


def test_nvcc_gets_the_compiler_behind_a_launcher(build_modules: None) -> None:
    import build_compiler

    assert build_compiler.Compiler(("/usr/bin/ccache", "g++", "-m64")).for_nvcc == "g++"


def test_kernels_for_demanding_instruction_sets_are_linked_last(build_modules: None, tmp_path: Path) -> None:
    """The linker keeps the first copy of an inline function: AVX-512 code must not reach the baseline path."""
    pytest.importorskip("pybind11")
    import build_compiler
    import build_cuda
    import build_ninja
    import build_plan

    torch = build_plan.TorchInstallation(tmp_path / "torch", "2.13.0", None)
    plan = build_plan.BuildPlan(
        "", build_compiler.Compiler(("g++",)), torch, build_cuda.CudaPlan("none"), build_plan.X86_ISA_FLAGS
    )
    text = build_ninja._NinjaFile(ROOT, tmp_path, plan).text("_C.so")
    objects = next(line for line in text.splitlines() if line.startswith("build _C.so")).split()[3:]
    variants = [name.rsplit(".", 2)[1] for name in objects if "_kernel.cpp." in name]
    assert variants == sorted(variants, key=list(build_plan.X86_ISA_FLAGS).index)
    assert set(variants) == set(build_plan.X86_ISA_FLAGS)
    assert all("_kernel.cpp." in name for name in objects[-len(variants) :])
    assert not [line for line in text.splitlines() if "fast-math" in line]


def test_source_hash_notices_edits_renames_and_moved_boundaries(tmp_path: Path) -> None:
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "a.cpp").write_text("12")
    (folder / "b.cpp").write_text("3")
    seen = [source_hash(tmp_path)]
    (folder / "notes.txt").write_text("not compiled")
    assert source_hash(tmp_path) == seen[0]
    (folder / "a.cpp").write_text("1")
    seen.append(source_hash(tmp_path))
    (folder / "b.cpp").write_text("23")
    seen.append(source_hash(tmp_path))
    (folder / "b.cpp").rename(folder / "c.cpp")
    seen.append(source_hash(tmp_path))
    assert len(set(seen)) == len(seen)
