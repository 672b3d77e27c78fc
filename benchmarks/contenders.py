"""Times the contenders for one operator side by side: eager PyTorch, torch.compile of it, our kernel, …

A benchmark file describes its operator once (`Operator`) and calls `measure` from a parametrised test. Every result is
compared with the eager reference in float64 before it is timed (but for the eager reference's own, which in half types
may be far off). Contenders take `(shape, *inputs)`; they, `make_inputs`
and the shapes are at module level, since torch.compile runs in a child process that imports them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import compiled, machine
from mffpa_ext import _extension

BASELINE, COMPILED, OURS = "eager", "torch.compile", "ours"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ALLOWED_ERROR = {torch.float32: 1e-5, torch.bfloat16: 3e-2}  # relative to the largest value, against float64

# Why a contender has no time: {group: {contender: reason}}, for the table at the end.
failures: dict[str, dict[str, str]] = {}


def forward(function: Callable, shape: Any, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return (function(shape, *inputs),)


def forward_backward(function: Callable, shape: Any, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(shape, *leaves)
    return y, *torch.autograd.grad(y, leaves, grad)


DIRECTIONS = {"forward": forward, "forward plus backward": forward_backward}


@dataclass(frozen=True)
class Operator:
    """
    Args:
        name: heads the groups.
        make_inputs: (shape, dtype) to the differentiable inputs and the gradient of the output.
        contenders: "eager" (the textbook form, also the float64 oracle), "ours", and any others.
        limits: what is timed beside them, once forward, without computing the operator: a copy of its input, say.
        flops: of one forward pass, for operators that compute more than they move; a backward pass counts twice as
            much. Without it the rate is that of the inputs, outputs and gradients, each moved once.
    """

    name: str
    make_inputs: Callable[[Any, torch.dtype], tuple[tuple[Tensor, ...], Tensor]]
    contenders: dict[str, Callable[..., Tensor]]
    limits: dict[str, Callable[..., Tensor]] = field(default_factory=dict)
    flops: Callable[[Any], float] | None = None

    def contender_params(self) -> list:
        """For `pytest.mark.parametrize("contender", …)`."""
        clock = pytest.mark.benchmark(timer=compiled.replay_clock)
        return [*self.contenders, *self.limits, pytest.param(COMPILED, marks=clock)]


def moved_bytes(inputs: tuple[Tensor, ...], grad: Tensor, direction: str) -> int:
    """Forward: inputs and output once. Backward: the same again, and the gradients of the inputs."""
    read, output = sum(tensor.nbytes for tensor in inputs), grad.nbytes
    return read + output if direction == "forward" else 3 * read + 2 * output


def rates(operator: Operator, shape: Any, inputs: tuple[Tensor, ...], grad: Tensor, direction: str) -> dict[str, Any]:
    """The work of one call, its unit, and the rate that this machine reaches at such work."""
    if operator.flops:
        passes = 1 if direction == "forward" else 3
        return {"work": passes * operator.flops(shape), "unit": "GFLOP/s", "limit": machine.gemm_rate(grad.dtype)}
    work = moved_bytes(inputs, grad, direction)
    return {"work": work, "unit": "GB/s", "limit": machine.copy_rate(2 ** round(math.log2(work)))}


def relative_error(results: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    pairs = zip(results, exact, strict=True)
    return max(float((result.double() - truth).abs().max() / truth.abs().max()) for result, truth in pairs)


def measure(benchmark, operator: Operator, shape: Any, direction: str, dtype: str, contender: str) -> None:
    if not _extension.is_compiled():
        pytest.skip(f"compiled kernels are missing: {_extension.missing_reason()}")
    benchmark.group = f"{operator.name}, {shape}, {direction}, {dtype}"
    run = DIRECTIONS[direction]
    inputs, grad = operator.make_inputs(shape, DTYPES[dtype])
    benchmark.extra_info.update(
        contender=contender, threads=torch.get_num_threads(), isa=_extension.cpu_isa(),
        **rates(operator, shape, inputs, grad, direction),
    )  # fmt: skip
    eager = operator.contenders[BASELINE]

    def wrong(results: tuple[Tensor, ...]) -> str:
        error = relative_error(results, run(eager, shape, tuple(x.double() for x in inputs), grad.double()))
        return "" if error <= ALLOWED_ERROR[DTYPES[dtype]] else f"wrong result, so no time: relative error {error:.3g}"

    if contender == COMPILED:
        try:
            times, results = compiled.run_in_child(run, eager, shape, inputs, grad)
            reason = wrong(results)
        except compiled.ChildFailed as failure:
            reason = str(failure)
        if reason:
            failures.setdefault(benchmark.group, {})[contender] = reason
            pytest.skip(f"{COMPILED}: {reason}")
        compiled.replay(benchmark, times)
    elif contender in operator.limits:
        benchmark(forward, operator.limits[contender], shape, inputs, grad)
    else:
        function = operator.contenders[contender]
        reason = "" if contender == BASELINE else wrong(run(function, shape, inputs, grad))
        assert not reason, reason
        benchmark(run, function, shape, inputs, grad)
