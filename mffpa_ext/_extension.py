"""Finds the compiled kernels and says what they are, or why there are none.

Importing this module loads `mffpa_ext._C`, which registers the operators `torch.ops.mffpa_ext.*`. Three cases:

- The library is there and loads: `is_compiled()` is true and `build_info` tells how it was built.
- It is absent: one RuntimeWarning with the reason, and the package runs on its PyTorch reference code.
- It is there and does not load: ImportError. Falling back would hide a broken installation behind slow results.

The environment variable MFFPA_BACKEND says what the user wants: `auto` (default) takes the compiled kernels where they
are; `compiled` turns their absence into an ImportError; `reference` asks for the PyTorch code, without a warning.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sysconfig
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch  # must come first: it loads the libraries that _C is linked against

from mffpa_ext._source_hash import source_hash

BACKENDS = ("auto", "compiled", "reference")
REINSTALL = "reinstall with `pip install .` in the source folder, and see its output with -v"

_PACKAGE = Path(__file__).resolve().parent


def requested_backend() -> str:
    """The value of MFFPA_BACKEND, read at each call; ValueError when it is none of BACKENDS."""
    value = os.environ.get("MFFPA_BACKEND") or "auto"
    if value not in BACKENDS:
        raise ValueError(f"MFFPA_BACKEND: expected one of {', '.join(BACKENDS)}, got {value!r}")
    return value


def is_compiled() -> bool:
    """Whether the compiled CPU kernels are loaded."""
    return _library is not None


def has_cuda_kernels() -> bool:
    """Whether the loaded library contains CUDA kernels; says nothing about a GPU being there."""
    return _library is not None and _library.has_cuda


def missing_reason() -> str:
    """Why there are no compiled kernels, as the end of a sentence; empty when there are."""
    return "" if is_compiled() else _missing_reason


def cuda_missing_reason() -> str:
    """Why there are no CUDA kernels, as the end of a sentence; empty when there are."""
    return "" if has_cuda_kernels() else _library.cuda_reason if _library is not None else _missing_reason


def cpu_isa() -> str:
    """Instruction set that the CPU kernels use, or "none" without compiled kernels."""
    return _library.cpu_isa() if _library is not None else "none"


def _load_library() -> tuple[ModuleType | None, str]:
    """The library, or None and why."""
    if importlib.util.find_spec("mffpa_ext._C") is None:
        return None, _reason_for_absence()
    try:
        library = importlib.import_module("mffpa_ext._C")
    except ImportError as error:
        message = f"the compiled kernels are there but do not load under torch {torch.__version__}: {error}"
        if requested_backend() == "reference":
            return None, message
        raise ImportError(f"mffpa_ext: {message}. To repair it, {REINSTALL}.") from error
    library.cpu_isa()  # a wrong MFFPA_CPU_ISA is reported now, and not from the middle of a training run
    return library, ""


def _read_build_info() -> dict[str, Any]:
    try:
        return json.loads((_PACKAGE / "_build_info.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _reason_for_absence() -> str:
    recorded = _read_build_info()
    if not recorded:
        return f"{_PACKAGE} is a source tree that has not been built"
    if not recorded["compiled"]:
        return recorded["reason"]
    if recorded["soabi"] == sysconfig.get_config_var("SOABI"):
        return f"the library that was built has since been removed from {_PACKAGE}"
    return f"they were built for {recorded['soabi']}, which is not the Python that runs now"


def _build_info_of(library: ModuleType | None) -> dict[str, Any]:
    """What the build recorded. The library's own facts win: the JSON in a checkout is that of the latest build."""
    info = _read_build_info()
    if library is not None:
        facts = {name: value for name, value in vars(library).items() if not name.startswith("_")}
        info.update({name: value for name, value in facts.items() if not callable(value)})
        info["soabi"] = sysconfig.get_config_var("SOABI")  # by its file name no other Python would have loaded it
    return {**info, "compiled": library is not None}


def _warn_about_older_library(library: ModuleType) -> None:
    """Only in a checkout: an installed package has no sources beside it."""
    root = _PACKAGE.parent
    if not (root / "python" / "bindings" / "module.cpp").is_file():
        return
    if source_hash(root) != library.source_hash:
        warnings.warn(
            f"mffpa_ext: the compiled kernels were built from other sources than those in {root / 'csrc'}; "
            f"{REINSTALL}.",
            RuntimeWarning,
            stacklevel=4,  # whoever imports this module
        )


def _initialise() -> tuple[ModuleType | None, str]:
    backend = requested_backend()
    library, reason = _load_library()
    if library is not None:
        _warn_about_older_library(library)
    elif backend == "compiled":
        raise ImportError(
            f"mffpa_ext: MFFPA_BACKEND=compiled, but the compiled kernels are missing: {reason}; {REINSTALL}."
        )
    elif backend == "auto":
        warnings.warn(
            f"mffpa_ext: the compiled kernels are missing: {reason}. Slower pure-PyTorch code is used; to have them, "
            f"{REINSTALL}. MFFPA_BACKEND=reference silences this.",
            RuntimeWarning,
            stacklevel=3,  # whoever imports this module
        )
    return library, reason


_library, _missing_reason = _initialise()
build_info: dict[str, Any] = _build_info_of(_library)
