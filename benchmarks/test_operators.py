"""The operators' micro-benchmarks under pytest-benchmark, which conftest.py describes."""

import functools

import pytest
import torch

from benchmarks import compiled
from benchmarks.conftest import failures
from benchmarks.contenders import COMPILED, Bench, Case, NoTime, WrongResult
from mffpa_ext import _extension

bench_of = functools.lru_cache(maxsize=1)(Bench)  # the contenders of a case follow each other


def test_operators(benchmark, case: Case, contender: str, device: torch.device) -> None:
    if not _extension.is_compiled():
        pytest.skip(f"compiled kernels are missing: {_extension.missing_reason()}")
    bench = bench_of(case, device)
    benchmark.group = str(case)
    benchmark.extra_info.update(
        contender=contender, threads=torch.get_num_threads(), isa=_extension.cpu_isa(), **bench.rates()
    )
    try:
        if device.type == "cpu" and contender != COMPILED:
            call = bench.checked_call(contender)
        else:
            times = bench.seconds(contender)
    except NoTime as reason:
        failures.setdefault(str(case), {})[contender] = str(reason)
        if isinstance(reason, WrongResult) and contender != COMPILED:
            raise
        pytest.skip(f"{contender}: {reason}")
    if device.type == "cpu" and contender != COMPILED:
        benchmark(call)
    else:
        compiled.replay(benchmark, times)
