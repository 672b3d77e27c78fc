"""Finds the C++ compiler and asks it, with a five-line program, whether it can build a Python module at all.

Trying beats comparing version numbers: a compiler without its standard library, without C++20 or without Python's
headers is as good as none, and the installation should then go on without kernels and say why.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CXX_STANDARD = 20

LAUNCHERS = ("ccache", "sccache", "distcc")

PROBE = """
#include <Python.h>
#include <bit>
#include <concepts>
static_assert(__cplusplus >= 202002L, "C++20 is needed");
extern "C" std::integral auto probe() { return std::popcount(unsigned(PY_VERSION_HEX)); }
"""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler command, or the reason why there is none."""

    command: tuple[str, ...] = ()
    description: str = ""
    unusable_because: str = ""

    @property
    def for_nvcc(self) -> str:
        """The compiler itself, without a launcher: nvcc takes one program as its host compiler."""
        return next(word for word in self.command if Path(word).name not in LAUNCHERS)


def find_compiler(environment: Mapping[str, str]) -> Compiler:
    """The compiler named by CXX, else the first usual name on PATH; with MFFPA_BUILD=none, none."""
    requested = environment.get("MFFPA_BUILD", "auto")
    if requested not in ("auto", "none"):
        raise SystemExit(f"mffpa_ext: MFFPA_BUILD must be 'auto' or 'none', got {requested!r}")
    if requested == "none":
        return Compiler(unusable_because="they were left out on request (MFFPA_BUILD=none)")
    if sys.platform != "linux":
        return Compiler(unusable_because=f"they are built on Linux only, and this is {sys.platform}")

    path = environment.get("PATH")
    named = tuple(shlex.split(environment.get("CXX", "")))  # may be several words, as in "ccache g++"
    candidates = [named] if named else [("g++",), ("c++",), ("clang++",)]
    for command in candidates:
        executable = shutil.which(command[0], path=path)
        if executable:
            return _probed((executable, *command[1:]))
    looked_for = " ".join(named) if named else "g++, c++ or clang++ on PATH"
    return Compiler(unusable_because=f"no C++ compiler was found at build time (looked for {looked_for})")


def _probed(command: tuple[str, ...]) -> Compiler:
    description = first_line(subprocess.run([*command, "--version"], capture_output=True, text=True).stdout)
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "probe.cpp"), Path(folder, "probe.so")
        source.write_text(PROBE)
        include = f"-I{sysconfig.get_path('include')}"
        probe = [*command, f"-std=c++{CXX_STANDARD}", "-fPIC", "-shared", include, str(source), "-o", str(library)]
        result = subprocess.run(probe, capture_output=True, text=True)
    if result.returncode == 0:
        return Compiler(command, description or command[0])
    errors = [line for line in result.stderr.splitlines() if "error" in line] or [first_line(result.stderr)]
    name = Path(command[0]).name
    return Compiler(
        unusable_because=f"the compiler {name} ({description}) cannot build a C++{CXX_STANDARD} Python module: "
        + errors[0].replace(f"{source}:", "")
    )


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
