"""PEP 517 and PEP 660 build backend: setuptools, on top of what the target environment already has.

The kernels use only headers of torch's stable ABI, so any torch >= 2.10 will do for building. A static list of build
requirements would make pip download a second torch of several gigabytes into its isolated environment, and decide
about CUDA by that one instead of the torch that the user runs. So this backend looks into the target environment,
asks pip only for what is missing there, and appends the environment's own paths to `sys.path` while it builds.

pip's isolation keeps `sys.executable`, so a child Python without pip's variables sees the target environment. Front
ends that build with an interpreter of their own (`python -m build`, uv) hide it: there the environment variable
MFFPA_TARGET_SITE may name the site-packages folder to use; without it they get the build requirements afresh.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import build_compiler

# The first setuptools that reads `license = "MIT"` (PEP 639).
MINIMUM_SETUPTOOLS = (77, 0)
MINIMUM_TORCH = (2, 10)
# Only where the target has no usable torch. The upper end is the newest release that the sources were compiled with.
TORCH_FOR_HEADERS = "torch>=2.10,<=2.13.0"


@cache
def target_paths() -> tuple[str, ...]:
    """The import path of the environment that the package will be installed into."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONNOUSERSITE")}
    report = subprocess.run(
        [sys.executable, "-P", "-c", "import json, sys; print(json.dumps(sys.path))"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    paths = [os.environ.get("MFFPA_TARGET_SITE", ""), *json.loads(report.stdout.splitlines()[-1])]
    return tuple(path for path in dict.fromkeys(paths) if os.path.isdir(path))


def target_version(name: str) -> tuple[int, ...] | None:
    """Major and minor version of a distribution in the target environment; None where it is missing."""
    for distribution in importlib.metadata.distributions(name=name, path=list(target_paths())):
        return tuple(int(part) for part in distribution.version.split("+")[0].split(".")[:2])
    return None


def _missing_requirements() -> list[str]:
    missing = []
    if (target_version("setuptools") or (0, 0)) < MINIMUM_SETUPTOOLS:
        missing.append(f"setuptools>={MINIMUM_SETUPTOOLS[0]}")
    if build_compiler.find_compiler(os.environ).unusable_because:
        return missing  # nothing will be compiled, so nothing else is worth a download
    missing += [name for name in ("ninja", "pybind11") if target_version(name) is None]
    if (target_version("torch") or (0, 0)) < MINIMUM_TORCH:
        missing.append(TORCH_FOR_HEADERS)
    return missing


def get_requires_for_build_wheel(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _missing_requirements()


def get_requires_for_build_editable(config_settings: dict[str, Any] | None = None) -> list[str]:
    return _missing_requirements()


def get_requires_for_build_sdist(config_settings: dict[str, Any] | None = None) -> list[str]:
    return [requirement for requirement in _missing_requirements() if requirement.startswith("setuptools")]


def _setuptools_hook(name: str) -> Callable[..., Any]:
    def hook(*arguments: Any, **keywords: Any) -> Any:
        # Appended, so that what pip has put into its isolated environment wins over older versions in the target.
        sys.path.extend(path for path in target_paths() if path not in sys.path)
        # Imported late: in an isolated environment setuptools appears only after get_requires_* has asked for it.
        from setuptools import __version__, build_meta

        if tuple(int(part) for part in __version__.split(".")[:2]) < MINIMUM_SETUPTOOLS:
            raise SystemExit(
                f"mffpa_ext: building needs setuptools >= {MINIMUM_SETUPTOOLS[0]}, found {__version__}. "
                "Run `pip install -U setuptools`, or build without --no-build-isolation."
            )
        return getattr(build_meta, name)(*arguments, **keywords)

    hook.__name__ = name
    return hook


build_wheel = _setuptools_hook("build_wheel")
build_sdist = _setuptools_hook("build_sdist")
build_editable = _setuptools_hook("build_editable")
prepare_metadata_for_build_wheel = _setuptools_hook("prepare_metadata_for_build_wheel")
prepare_metadata_for_build_editable = _setuptools_hook("prepare_metadata_for_build_editable")
