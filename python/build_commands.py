"""The two setuptools commands that differ from the standard ones.

Both also leave their products inside the source package, not only in the wheel. After a plain `pip install .`,
`python -m mffpa_ext.train` and pytest, started inside the checkout, import the source tree and not the installed
package: without a library there, they would run on the slow fallback although the installation was fine.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from build_facts import Facts, as_json, collect_facts
from build_ninja import build_library
from build_plan import BuildPlan
from setuptools import Extension
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parents[1]
SOURCE_PACKAGE = ROOT / "mffpa_ext"
INFO_NAME = "_build_info.json"


class BuildPackage(build_py):
    """Python files; where no kernels are compiled, also the note that says why."""

    plan: BuildPlan

    def run(self) -> None:
        destination = Path(self.build_lib) / "mffpa_ext"
        # setuptools never clears its build folder, and would pack modules that the sources have since lost.
        shutil.rmtree(destination, ignore_errors=True)
        super().run()
        if self.plan.compiled:
            return  # BuildKernels follows, and writes the facts once there is a library they are true of
        # The tree shows the latest build: an older library beside a note that there is none would contradict it.
        (SOURCE_PACKAGE / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}").unlink(missing_ok=True)
        _publish(collect_facts(ROOT, self.plan), None, [SOURCE_PACKAGE, destination])


class BuildKernels(build_ext):
    """The compiled module. Objects stay in build/, so that a second installation compiles only what changed."""

    plan: BuildPlan

    def build_extension(self, ext: Extension) -> None:
        facts = collect_facts(ROOT, self.plan)
        work = ROOT / "build" / f"kernels-{sysconfig.get_config_var('SOABI')}"
        library = build_library(ROOT, work, self.plan, facts)
        destination = Path(self.get_ext_fullpath(ext.name)).parent
        _publish(facts, library, [SOURCE_PACKAGE, destination])

    def copy_extensions_to_source(self) -> None:
        """Nothing left to do for an editable installation: build_extension has already placed the library there."""


def _publish(facts: Facts, library: Path | None, folders: list[Path]) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if library is not None:
                _replace(folder / library.name, library.read_bytes(), mode=0o755)
            _replace(folder / INFO_NAME, as_json(facts).encode(), mode=0o644)
        except PermissionError as error:
            if folder != SOURCE_PACKAGE:
                raise
            print(f"mffpa_ext: the source tree cannot be written to ({error}); only the wheel gets the library",
                  file=sys.stderr)  # fmt: skip


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Puts a whole file in place at once: a running process may have the old library mapped into its memory."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.chmod(mode)
    os.replace(temporary, path)
