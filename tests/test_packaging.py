"""What the package that is imported here says about its compiled kernels, and how it behaves without them.

Every test that needs other environment variables or another state of the package runs a child Python: the library is
loaded once per process. `tests/installation/` installs into fresh environments.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import warnings
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # without a compiler the suite runs on the fallback; the tests below say so
    from mffpa_ext import _extension

from mffpa_ext._source_hash import source_hash

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(_extension.__file__).parent

needs_kernels = pytest.mark.skipif(
    not _extension.is_compiled(), reason=f"compiled kernels are missing: {_extension.missing_reason()}"
)


def run_python(code: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a child, with none of the MFFPA_* variables of this process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MFFPA_")}
    environment.update(variables)
    if cwd is None:  # import the package under test, from wherever this process has it
        environment["PYTHONPATH"] = str(PACKAGE.parent)
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@needs_kernels
def test_library_states_how_it_was_built() -> None:
    info = _extension.build_info
    assert info["compiled"] is True and info["reason"] == ""
    assert info["cxx_standard"] == 20
    assert re.search(r"\d+\.\d+", info["compiler"])
    assert tuple(map(int, info["torch"].split("+")[0].split(".")[:2])) >= (2, 10)
    assert info["soabi"] == sysconfig.get_config_var("SOABI")
    if (ROOT / "pyproject.toml").is_file():
        assert info["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@needs_kernels
def test_cuda_facts_are_consistent() -> None:
    info = _extension.build_info
    assert info["has_cuda"] is _extension.has_cuda_kernels()
    assert bool(info["cuda_archs"]) is info["has_cuda"]
    assert bool(_extension.cuda_missing_reason()) is not info["has_cuda"]


@needs_kernels
def test_all_instruction_sets_are_compiled_in() -> None:
    x86 = platform.machine() == "x86_64"
    assert _extension.build_info["isas"] == (["baseline", "avx2", "avx512"] if x86 else ["baseline"])
    assert _extension.cpu_isa() in _extension.build_info["isas"]


@needs_kernels
@pytest.mark.skipif(not (PACKAGE.parent / "csrc").is_dir(), reason="no sources beside the package")
def test_library_was_built_from_these_sources() -> None:
    assert _extension.build_info["source_hash"] == source_hash(PACKAGE.parent), "run `pip install .` again"


@needs_kernels
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_instruction_set_can_be_chosen(isa: str) -> None:
    result = run_python("from mffpa_ext import _extension as e; print(e.cpu_isa())", MFFPA_CPU_ISA=isa)
    if "expected one that this machine can run" in result.stderr:
        pytest.skip(f"this CPU has no {isa}")
    assert result.stdout.split() == [isa], result.stderr


@needs_kernels
def test_unknown_instruction_set_is_refused_at_import() -> None:
    result = run_python("import mffpa_ext._extension", MFFPA_CPU_ISA="sse9")
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith("ValueError: MFFPA_CPU_ISA") and "'sse9'" in last and "baseline" in last


@needs_kernels
@pytest.mark.parametrize("backend", ["auto", "compiled", "reference"])
def test_backend_can_be_requested(backend: str) -> None:
    code = "from mffpa_ext import _extension as e; print(e.requested_backend(), e.is_compiled())"
    result = run_python(code, MFFPA_BACKEND=backend, PYTHONWARNINGS="error::RuntimeWarning")
    assert result.stdout.split() == [backend, "True"], result.stderr


def test_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MFFPA_BACKEND", "fast")
    with pytest.raises(ValueError, match="expected one of auto, compiled, reference, got 'fast'"):
        _extension.requested_backend()


@needs_kernels
@pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="the tests do not lie in a source tree")
def test_checkout_uses_compiled_kernels() -> None:
    """The trap of a plain `pip install .`: started here, Python imports the source tree and not the installation."""
    code = "import mffpa_ext; from mffpa_ext import _extension as e; print(mffpa_ext.__file__, e.is_compiled())"
    result = run_python(code, cwd=ROOT)
    file, compiled = result.stdout.rsplit(maxsplit=1)
    assert Path(file).parent == ROOT / "mffpa_ext"
    assert compiled == "True", result.stderr


@pytest.fixture
def lone_extension(tmp_path: Path) -> Path:
    """A folder with a package that holds the loader alone: no library, no build info, nothing else to import."""
    package = tmp_path / "mffpa_ext"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("_extension.py", "_source_hash.py"):
        shutil.copy(PACKAGE / name, package)
    return tmp_path


def test_absent_library_warns_once_and_says_what_to_do(lone_extension: Path) -> None:
    code = "from mffpa_ext import _extension as e; print(e.is_compiled(), e.cpu_isa(), e.missing_reason())"
    result = run_python(code, cwd=lone_extension)
    assert result.stdout.startswith("False none ") and "has not been built" in result.stdout, result.stderr
    assert result.stderr.count("RuntimeWarning") == 1
    assert "has not been built" in result.stderr and "pip install ." in result.stderr


def test_absent_library_repeats_the_recorded_reason(lone_extension: Path) -> None:
    info = '{"compiled": false, "reason": "no C++ compiler was found at build time"}'
    (lone_extension / "mffpa_ext" / "_build_info.json").write_text(info)
    result = run_python("import mffpa_ext._extension", cwd=lone_extension, MFFPA_BACKEND="compiled")
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "no C++ compiler was found at build time" in last


@pytest.mark.parametrize(
    ("soabi", "reason"),
    [(sysconfig.get_config_var("SOABI"), "has since been removed"), ("cpython-39", "they were built for cpython-39")],
)
def test_library_that_went_or_belongs_to_another_python(lone_extension: Path, soabi: str, reason: str) -> None:
    info = json.dumps({"compiled": True, "soabi": soabi})
    (lone_extension / "mffpa_ext" / "_build_info.json").write_text(info)
    assert reason in run_python("import mffpa_ext._extension", cwd=lone_extension).stderr


def test_reference_backend_needs_no_library_and_gives_no_warning(lone_extension: Path) -> None:
    result = run_python("import mffpa_ext._extension", cwd=lone_extension, MFFPA_BACKEND="reference")
    assert (result.returncode, result.stderr) == (0, "")


def test_broken_library_is_an_error_and_not_a_fallback(lone_extension: Path) -> None:
    library = lone_extension / "mffpa_ext" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    library.write_bytes(b"not a shared library")
    result = run_python("import mffpa_ext._extension", cwd=lone_extension)
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith("ImportError: mffpa_ext: the compiled kernels are there but do not load")


@needs_kernels
def test_library_older_than_the_sources_is_noticed(lone_extension: Path) -> None:
    shutil.copy(PACKAGE / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}", lone_extension / "mffpa_ext")
    bindings = lone_extension / "python" / "bindings"
    bindings.mkdir(parents=True)
    (bindings / "module.cpp").write_text("// edited since the build\n")
    result = run_python("import mffpa_ext._extension", cwd=lone_extension)
    assert result.returncode == 0
    assert "built from other sources" in result.stderr and "RuntimeWarning" in result.stderr
