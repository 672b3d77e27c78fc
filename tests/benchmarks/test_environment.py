"""What the check says of the machine: missing packages, tools, a GPU that torch cannot use."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_check import environment, tests

ROOT = Path(__file__).resolve().parents[2]
NOTHING = dict.fromkeys(distribution for distribution, _ in environment.PACKAGES.values())


def test_missing_packages_are_named_with_their_use() -> None:
    found = {**dict.fromkeys(NOTHING, "1.0"), "ninja": None, "pytest-benchmark": None}
    assert environment.missing_packages(found) == [
        "ninja: needed for build",
        "pytest-benchmark: needed for `pytest benchmarks` alone: benchmark uses a runner of its own",
    ]
    assert len(environment.missing_packages(NOTHING)) == len(environment.PACKAGES)


def test_packages_of_this_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(environment.PACKAGES, "no_such_module", ("no-such-module", "nothing"))
    found = environment.packages()
    assert found["torch"] and found["pytest"] and found["no-such-module"] is None


@pytest.mark.parametrize("stage", ["benchmarks.micro", "benchmarks.end_to_end", "tests"])
def test_stages_need_no_package_that_is_not_listed_for_them(stage: str) -> None:
    """And none of those that only the CPU tests or `pytest benchmarks` need."""
    modules = [stage] if stage != "tests" else [file[:-3].replace("/", ".") for file in tests.files()]
    imports = f"[importlib.import_module(name) for name in {modules!r}]"
    code = f"import importlib, json, sys; {imports}; print(json.dumps([*sys.modules]))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(result.stdout.splitlines()[-1])}
    assert not loaded & {"hypothesis", "sklearn", "scipy", "pytest_benchmark", "matplotlib"}
    if stage != "tests":
        assert "pytest" not in loaded


def test_description_of_a_bare_machine() -> None:
    bare = {"python": "3.12.3", "cores": 4, "nvcc": None, "compute-sanitizer": None, "g++": None, "gpu": None,
            "no_gpu": "nvidia-smi shows no GPU", "missing": ["torch: needed for everything"]}  # fmt: skip
    assert environment.describe(bare) == [
        "Python 3.12.3, no torch, no nvcc, no compute-sanitizer, no g++, 4 cores",
        "no GPU: nvidia-smi shows no GPU",
        "missing package torch: needed for everything",
    ]


def test_description_of_a_gpu() -> None:
    gpu = {"name": "NVIDIA H100", "memory_bytes": 80 * 2**30, "capability": "9.0"}
    facts = {"python": "3.12.3", "cores": 16, "nvcc": "release 13.0", "compute-sanitizer": None, "g++": "g++ 13",
             "torch": "2.11.0", "gpu": gpu, "nvidia_smi": {"driver_version": "580"}, "missing": []}  # fmt: skip
    assert environment.describe(facts)[1] == "NVIDIA H100, 80 GiB, sm_90, driver 580"


def test_a_gpu_that_torch_cannot_use_is_no_missing_gpu() -> None:
    smi = {"name": "NVIDIA H100"}
    assert "is a build without CUDA" in environment.no_gpu_because(None, smi, "2.13.0+cpu")
    assert "cannot use it" in environment.no_gpu_because("13.0", smi, "2.13.0")
    assert environment.no_gpu_because(None, {}, "2.13.0+cpu") == "nvidia-smi shows no GPU"


def test_nvidia_smi_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = ("NVIDIA H100", "580.1", "81559 MiB", "345 MHz", "2619 MHz", "1980 MHz", "2619 MHz", "700.00 W", "31")
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$1 $2" = "-i 1" ] && echo "{", ".join(values)}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert environment.nvidia_smi() == dict(zip(environment.QUERIED, values, strict=True))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert environment.nvidia_smi() == {}, "the program fails"


def test_program_writes_what_it_prints(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    command = [sys.executable, "-m", "benchmarks.gpu_check.environment", str(path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    facts = json.loads(path.read_text())
    assert result.stdout.splitlines() == environment.describe(facts)
    assert ("no_gpu" in facts) is (facts["gpu"] is None)
