"""Compiles the .cu files of csrc/cuda for the CPU (see simt.h) or by nvcc, and calls their launch functions."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = tuple(sorted((ROOT / "csrc" / "cuda").glob("*.cu")))
INTERFACE = HERE / "kernels_interface.cpp"

# -O1: compiling takes longer than running. The kernels' #pragma unroll means nothing to g++.
HOST_FLAGS = ("-std=c++20", "-O1", "-g1", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}  # csrc/dtype.h


@functools.cache
def nvcc() -> str | None:
    """The nvcc that the build would use."""
    spec = importlib.util.spec_from_file_location("_build_cuda_of_tests", ROOT / "python" / "build_cuda.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.find_nvcc(os.environ)


@functools.cache
def toolkit_include() -> str:
    """The folder of CUDA's headers, from nvcc itself, which may be a link or a script."""
    output = run(nvcc(), "--dryrun", "-x", "cu", "-c", os.devnull, "-o", os.devnull)
    found = re.search(r'INCLUDES="-I(.+?)"', output)
    assert found, f"nvcc --dryrun names no include folder:\n{output}"
    return str(Path(found[1]).resolve())


def missing() -> str:
    """Why the kernels cannot be compiled here; empty when they can."""
    if not SOURCES:
        return "the tests do not lie in a source tree"
    if nvcc() is None:
        return "CUDA's headers come with nvcc, which was not found; set CUDA_HOME"
    return "" if shutil.which("g++") else "g++ was not found"


def run(*command: str | None, **options: object) -> str:
    """Both outputs of a command; fails with them."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    output = result.stdout + result.stderr
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{output[-20000:]}"
    return output


def host_command(source: Path, *flags: str) -> list[str]:
    """g++ on a .cu file as C++ with simt.h before it, or on a .cpp file as it is."""
    emulation = ["-include", str(HERE / "simt.h"), "-x", "c++"] if source.suffix == ".cu" else []
    include = [f"-I{ROOT / 'csrc'}", "-isystem", toolkit_include()]
    return ["g++", *HOST_FLAGS, *flags, *include, *emulation, "-c", str(source)]


def digest(sources: Sequence[Path], texts: Sequence[str]) -> str:
    """Names what is built from these sources, all headers, and what else `texts` says about it."""
    headers = [path for place in (ROOT / "csrc", HERE) for path in place.rglob("*") if path.suffix in (".h", ".cuh")]
    result = hashlib.sha256("\0".join(texts).encode())
    for path in (*sources, *sorted(headers)):
        result.update(path.read_bytes())
    return result.hexdigest()[:16]


def build_for_host(folder: Path, name: str, sources: Sequence[Path], flags: Sequence[str] = (), link: str = "") -> Path:
    """A program of these sources, or with link="-shared" a library; not built again while its sources are the same."""
    commands = [repr(host_command(source, *flags)) for source in sources]
    product = folder / f"{name}-{digest(sources, [*commands, run('g++', '--version')])}"
    if product.exists():
        return product
    for older in folder.glob(f"{name}-*"):
        older.unlink(missing_ok=True)
    objects = [folder / f"{product.name}-{source.stem}.{os.getpid()}.o" for source in sources]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda s, o: run(*host_command(s, *flags), "-o", str(o)), sources, objects))
    temporary = product.with_suffix(f".{os.getpid()}")
    run("g++", "-pthread", *flags, *filter(None, [link]), *map(str, objects), "-o", str(temporary))
    os.replace(temporary, product)
    for path in objects:
        path.unlink()
    return product


class OutlookShape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in "batch height width heads head_dim kernel_size stride padding grid_height grid_width".split()
    ]


class PlaneShape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in "batch channels height width".split()),
        ("channels_last", ctypes.c_int),
    ]


class FeatureNormOptions(ctypes.Structure):
    _fields_ = [("eps", ctypes.c_double), ("relu", ctypes.c_bool), ("pool", ctypes.c_bool)]


class GateOptions(ctypes.Structure):
    _fields_ = [("branches", ctypes.c_int64), ("softmax", ctypes.c_bool)]


class CoordinateWeights(ctypes.Structure):
    """Pointers into tensors, which the caller keeps."""

    POINTERS = (
        "conv1_weight conv1_bias bn_weight bn_bias bn_mean bn_var".split(),
        "conv_h_weight conv_h_bias conv_w_weight conv_w_bias".split(),
    )
    _fields_ = [
        ("hidden", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in POINTERS[0]),
        ("bn_eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in POINTERS[1]),
    ]


class Kernels:
    """The launch functions of a library that holds kernels_interface.cpp. Tensors must be contiguous."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))

    def __call__(
        self, name: str, dtype: torch.dtype, *arguments: ctypes.Structure | ctypes.c_int64 | float | torch.Tensor | None
    ) -> None:
        """RuntimeError with the text of what the launch function throws."""
        function = getattr(self._library, name)
        function.restype = ctypes.c_char_p
        error = function(DTYPE_CODES[dtype], *map(_as_c, arguments))
        if error is not None:
            raise RuntimeError(error.decode())


def _as_c(argument: ctypes.Structure | ctypes.c_int64 | float | torch.Tensor | None) -> object:
    if isinstance(argument, torch.Tensor):
        assert argument.is_contiguous()
        return ctypes.c_void_p(argument.data_ptr())
    if argument is None:
        return ctypes.c_void_p()
    if isinstance(argument, (ctypes.Structure, ctypes.c_int64)):
        return ctypes.byref(argument)
    return ctypes.c_double(argument)


def poisoned(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Unwritten elements of an output or a workspace make the result NaN."""
    return torch.full(tuple(shape), torch.nan, dtype=dtype)
