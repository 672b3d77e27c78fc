"""Fresh environments to install into, and clean copies of the source tree to install from.

The environments borrow torch and the build tools from the environment that runs the tests, and pip runs with
--no-index: the tests download nothing, and a build that asked for a second torch would fail.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("csrc", "python", "mffpa_ext", "pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE", "README.md")
PRODUCTS = shutil.ignore_patterns("*.so", "_build_info.json", "__pycache__", "*.egg-info")
STATE = """
import json, mffpa_ext
from mffpa_ext import _extension
print(json.dumps({"file": mffpa_ext.__file__, "compiled": _extension.is_compiled(), "info": _extension.build_info}))
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment without pip, which the tests' own pip installs into."""

    folder: Path

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    def pip(self, *arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pip", "--python", self.python, *arguments]
        return subprocess.run(command, cwd=cwd, env=clean_environment(variables), capture_output=True, text=True)

    def install(self, *arguments: str, cwd: Path, **variables: str) -> str:
        """Returns pip's output, the build's included; fails the test with it when pip fails."""
        result = self.pip("install", "--no-index", "--verbose", *arguments, cwd=cwd, **variables)
        output = result.stdout + result.stderr
        assert result.returncode == 0, output[-5000:]
        return output

    def run(self, code: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [self.python, "-c", code]
        return subprocess.run(command, cwd=cwd, env=clean_environment(variables), capture_output=True, text=True)

    def installed(self) -> set[str]:
        """Names of what pip has put into this environment itself."""
        site = Path(sysconfig.get_path("purelib", vars={"base": str(self.folder)}))
        return {path.name.partition("-")[0].lower() for path in site.glob("*.dist-info")}


def clean_environment(variables: dict[str, str]) -> dict[str, str]:
    dropped = ("PYTHONPATH", "CXX", "CXXFLAGS", "LDFLAGS", "PIP_NO_INDEX")
    kept = {k: v for k, v in os.environ.items() if k not in dropped and not k.startswith("MFFPA_")}
    kept["PATH"] = os.pathsep.join([kept["PATH"], sysconfig.get_path("scripts")])  # the program of the ninja package
    return {**kept, **variables}


def copy_sources(destination: Path) -> Path:
    """What a fresh clone holds, without the products of a build."""
    destination.mkdir(parents=True)
    for source in (ROOT / name for name in SOURCES):
        if source.is_dir():
            shutil.copytree(source, destination / source.name, ignore=PRODUCTS)
        elif source.exists():
            shutil.copy(source, destination)
    return destination


@pytest.fixture(scope="session")
def build_tools() -> None:
    """Skips where the environment of the tests cannot lend what a build without downloads needs."""
    missing = [name for name in ("ninja", "pybind11", "pip") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"building without downloads needs `pip install {' '.join(missing)}`")
    if not (ROOT / "setup.py").is_file():
        pytest.skip("the tests do not lie in a source tree")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory, build_tools: None) -> Path:
    """One source tree for all tests that compile all of it. The space in its path is deliberate."""
    return copy_sources(tmp_path_factory.mktemp("check out") / "mffpa")


@pytest.fixture(scope="session")
def lent_packages(tmp_path_factory: pytest.TempPathFactory, build_tools: None) -> Path:
    """A folder with links to all that the tests' environment has installed, but for mffpa_ext itself.

    One folder for all environments: a torch in another place would mean compiling everything again.
    """
    folder = tmp_path_factory.mktemp("lent")
    for site in dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))):
        for path in Path(site).iterdir():
            if not path.name.startswith(("mffpa_ext", "__editable__", "__pycache__")):
                (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture
def environment(tmp_path: Path, lent_packages: Path) -> Environment:
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    (site / "lent_by_the_tests.pth").write_text(f"{lent_packages}\n")
    return Environment(folder)


@pytest.fixture
def make_sources(tmp_path: Path, build_tools: None) -> Callable[[], Path]:
    """For tests that spoil their source tree."""
    return lambda: copy_sources(tmp_path / "sources")
