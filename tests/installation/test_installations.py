"""Every way to install, each into a fresh environment, and what `import mffpa_ext` then finds."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import STATE, Environment

pytestmark = pytest.mark.slow


def state(environment: Environment, cwd: Path, **variables: str) -> dict[str, Any]:
    """Where mffpa_ext comes from and what it says, for a Python started in `cwd`; any RuntimeWarning is an error."""
    result = environment.run(STATE, cwd, PYTHONWARNINGS="error::RuntimeWarning", **variables)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def in_tree_products(checkout: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in (checkout / "mffpa_ext").glob("_[Cb]*")}


def test_plain_install_serves_the_checkout_and_everywhere_else(
    checkout: Path, environment: Environment, tmp_path: Path
) -> None:
    environment.install(".", cwd=checkout)

    outside = state(environment, tmp_path)
    assert Path(outside["file"]).is_relative_to(environment.folder)
    assert outside["compiled"]
    inside = state(environment, checkout)
    assert Path(inside["file"]).parent == checkout / "mffpa_ext"
    assert inside["compiled"], "a plain install must also leave the library in the source tree"

    assert environment.installed() == {"mffpa_ext"}, "the torch that was already there stays"
    assert inside["info"]["torch"] == torch.__version__, "the build used the torch that was already there"


def test_editable_install(checkout: Path, environment: Environment, tmp_path: Path) -> None:
    for product in (checkout / "mffpa_ext").glob("_[Cb]*"):
        product.unlink()
    environment.install("--editable", ".", cwd=checkout)
    outside = state(environment, tmp_path)
    assert Path(outside["file"]).parent == checkout / "mffpa_ext"
    assert outside["compiled"]


def test_without_isolation_and_with_nothing_changed_nothing_is_compiled_again(
    checkout: Path, environment: Environment, tmp_path: Path
) -> None:
    environment.install("--no-build-isolation", ".", cwd=checkout)
    assert state(environment, tmp_path)["compiled"]
    again = environment.install("--no-build-isolation", "--force-reinstall", "--no-deps", ".", cwd=checkout)
    assert "ninja: no work to do." in again


def test_source_archive_carries_sources_only_and_builds(
    checkout: Path, environment: Environment, tmp_path: Path
) -> None:
    # As on a machine that only makes releases: setuptools alone must do.
    hidden = "sys.modules.update(dict.fromkeys(['torch', 'pybind11', 'ninja']))"
    code = f"import sys, mffpa_build; {hidden}; print(mffpa_build.build_sdist({str(tmp_path)!r}))"
    result = environment.run(code, checkout, PYTHONPATH=str(checkout / "python"))
    assert result.returncode == 0, result.stderr
    archive = tmp_path / result.stdout.split()[-1]
    with tarfile.open(archive) as tar:
        names = {Path(*Path(name).parts[1:]).as_posix() for name in tar.getnames()}
    assert not [name for name in names if name.endswith((".so", "_build_info.json"))]
    for part in ("csrc", "python", "mffpa_ext"):
        sources = {p.relative_to(checkout).as_posix() for p in (checkout / part).rglob("*") if p.is_file()}
        products = {name for name in sources if name.endswith((".so", ".pyc", "_build_info.json"))}
        assert sources - products <= names

    environment.install(str(archive), cwd=tmp_path)
    assert state(environment, tmp_path)["compiled"]


def test_without_a_compiler_it_installs_and_says_why(
    make_sources: Callable[[], Path], environment: Environment, tmp_path: Path
) -> None:
    sources = make_sources()
    output = environment.install(".", cwd=sources, PATH=str(tmp_path))
    assert "WARNING: compiled kernels are left out: no C++ compiler was found" in output

    for cwd in (tmp_path, sources):
        result = environment.run(STATE, cwd)
        assert result.returncode == 0, result.stderr
        assert not json.loads(result.stdout)["compiled"]
        assert result.stderr.count("RuntimeWarning: mffpa_ext: the compiled kernels are missing") == 1
        assert "no C++ compiler was found at build time" in result.stderr
    refused = environment.run("import mffpa_ext", tmp_path, MFFPA_BACKEND="compiled")
    assert "ImportError" in refused.stderr and "no C++ compiler was found" in refused.stderr


def test_a_build_without_kernels_leaves_no_older_library_behind(
    make_sources: Callable[[], Path], environment: Environment
) -> None:
    sources = make_sources()
    code = "import sysconfig; print('_C' + sysconfig.get_config_var('EXT_SUFFIX'))"
    library = sources / "mffpa_ext" / environment.run(code, sources).stdout.strip()
    library.write_bytes(b"from an earlier build")
    environment.install("--no-deps", ".", cwd=sources, MFFPA_BUILD="none")
    assert in_tree_products(sources) == {"_build_info"}


def test_compile_error_fails_with_the_compilers_message(
    make_sources: Callable[[], Path], environment: Environment
) -> None:
    sources = make_sources()
    with (sources / "csrc" / "cpu" / "isa.cpp").open("a") as file:
        file.write("\nint broken = no_such_name;\n")
    result = environment.pip("install", "--no-index", "--no-deps", ".", cwd=sources)
    output = result.stdout + result.stderr
    assert result.returncode != 0
    assert "csrc/cpu/isa.cpp" in output and "no_such_name" in output
    assert "compiling the kernels failed" in output and "MFFPA_BUILD=none" in output
    assert "mffpa_ext" not in environment.installed()
