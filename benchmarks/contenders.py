"""The contenders for one operator: eager PyTorch, torch.compile of it, our kernel, on a GPU also as captured graphs.

A module of `operators` describes its operator once (`Operator`); `test_operators.py` (pytest-benchmark) and `micro.py`
(nothing but torch) time it. Every result is compared with the eager reference in float64 before it is timed (but for
the eager reference's own, which in half types may be far off). Contenders take `(shape, *inputs)`; they, `make_inputs`
and the shapes are at module level, since torch.compile runs in a child process that imports them on the CPU.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks import compiled, machine, timing

BASELINE, COMPILED, OURS = "eager", "torch.compile", "ours"
GRAPH = ", graph"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ALLOWED_ERROR = {torch.float32: 1e-5, torch.bfloat16: 3e-2}  # relative to the largest value, against float64
TF32_ERROR = 1e-2  # of what torch compiles from the textbook form on a GPU, where convolutions are TF32
FILLS_THE_CARD = 32  # images a batch: from here on inputs outgrow the L2 cache and are timed cold
L2_TIMES = 4  # what the input sets of a cold run move together, in L2 sizes
MOST_SETS = 16

Tensors = tuple[Tensor, ...]
Inputs = tuple[Tensors, Tensor]  # those to be differentiated, and the gradient of the output


def normal(generator: torch.Generator, *size: int) -> Tensor:
    """Normally distributed, on the generator's device."""
    return torch.randn(size, generator=generator, device=generator.device)


def forward(function: Callable, shape: Any, inputs: Tensors, grad: Tensor) -> Tensors:
    with torch.no_grad():
        return (function(shape, *inputs),)


def forward_backward(function: Callable, shape: Any, inputs: Tensors, grad: Tensor) -> Tensors:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    y = function(shape, *leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, grad)


DIRECTIONS = {"forward": forward, "forward plus backward": forward_backward}


@dataclass(frozen=True, eq=False)
class Operator:
    """
    Args:
        name: heads the groups.
        make_inputs: (shape, dtype, generator) to the inputs, on the generator's device.
        contenders: "eager" (the textbook form, also the float64 oracle), "ours", and any others.
        shapes: timed on the CPU.
        gpu_shapes: timed on a GPU, one image and a batch that fills it; none where it is not our kernel that runs.
        small: of no interest but quick, to see that everything runs.
        directions: of DIRECTIONS, by shape.
        dtypes: of DTYPES.
        limits: what is timed beside them on the CPU, once forward, without computing the operator: a copy of its input.
        flops: of one forward pass, for operators that compute more than they move; a backward pass counts twice as
            much. Without it the rate is that of the inputs, outputs and gradients, each moved once.
    """

    name: str
    make_inputs: Callable[[Any, torch.dtype, torch.Generator], Inputs]
    contenders: dict[str, Callable[..., Tensor]]
    shapes: tuple[Any, ...]
    gpu_shapes: tuple[Any, ...] = ()
    small: tuple[Any, ...] = ()
    directions: Callable[[Any], tuple[str, ...]] = lambda shape: tuple(DIRECTIONS)
    dtypes: tuple[str, ...] = tuple(DTYPES)
    limits: dict[str, Callable[..., Tensor]] = field(default_factory=dict)
    flops: Callable[[Any], float] | None = None

    def cases(self, shapes: tuple[Any, ...]) -> list["Case"]:
        return [
            Case(self, shape, direction, dtype)
            for shape in shapes for direction in self.directions(shape) for dtype in self.dtypes
        ]  # fmt: skip

    def contender_names(self, device: torch.device) -> list[str]:
        if device.type == "cuda":
            return [BASELINE, BASELINE + GRAPH, OURS, OURS + GRAPH, COMPILED]
        return [*self.contenders, *self.limits, COMPILED]


@dataclass(frozen=True)
class Case:
    """What the contenders of one group have in common."""

    operator: Operator
    shape: Any
    direction: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.operator.name}, {self.shape}, {self.direction}, {self.dtype}"

    @property
    def is_cold(self) -> bool:
        """Whether a GPU is given other inputs at each call; how a CPU's caches are met is left to the size."""
        return self.shape.batch >= FILLS_THE_CARD

    def run(self, function: Callable, inputs: Tensors, grad: Tensor) -> Tensors:
        return DIRECTIONS[self.direction](function, self.shape, inputs, grad)

    def inputs(self, device: torch.device, seed: int = 0) -> Inputs:
        generator = torch.Generator(device).manual_seed(seed)
        return self.operator.make_inputs(self.shape, DTYPES[self.dtype], generator)

    def exact(self, inputs: Tensors, grad: Tensor) -> Tensors:
        eager = self.operator.contenders[BASELINE]
        return self.run(eager, tuple(x.double() for x in inputs), grad.double())


class NoTime(Exception):
    """Says in a few words why a contender has no time."""


class WrongResult(NoTime):
    pass


class Bench:
    """The inputs of one case on one device, and the times of its contenders."""

    def __init__(self, case: Case, device: torch.device) -> None:
        self.case, self.device = case, device
        self.inputs, self.grad = case.inputs(device)

    @functools.cached_property
    def exact(self) -> Tensors:
        return self.case.exact(self.inputs, self.grad)

    @functools.cached_property
    def input_sets(self) -> list[Inputs]:
        sets = [(self.inputs, self.grad)]
        if self.device.type == "cuda" and self.case.is_cold:
            l2 = torch.cuda.get_device_properties(self.device).L2_cache_size
            wanted = math.ceil(L2_TIMES * l2 / moved_bytes(self.inputs, self.grad, self.case.direction))
            sets += [self.case.inputs(self.device, seed) for seed in range(1, min(MOST_SETS, wanted))]
        return sets

    def rates(self) -> dict[str, Any]:
        """The work of one call, its unit, and the rate that this machine reaches at such work."""
        if flops := self.case.operator.flops:
            passes = 1 if self.case.direction == "forward" else 3
            limit = machine.gemm_rate(self.grad.dtype, self.device)
            return {"work": passes * flops(self.case.shape), "unit": "GFLOP/s", "limit": limit}
        work = moved_bytes(self.inputs, self.grad, self.case.direction)
        return {"work": work, "unit": "GB/s", "limit": machine.copy_limit(work, self.device)}

    def seconds(self, contender: str) -> list[float]:
        """Of each round of a call. Raises NoTime where there is none, WrongResult where the result is wrong."""
        try:
            return self._seconds(contender)
        except torch.OutOfMemoryError:
            pass  # outside, since the traceback holds the tensors
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        raise NoTime("out of memory")

    def checked_call(self, contender: str) -> timing.Call:
        """A call of the contender as users would make it, on other inputs each time where it is timed cold."""
        operator = self.case.operator
        if contender in operator.limits:
            return functools.partial(forward, operator.limits[contender], self.case.shape, self.inputs, self.grad)
        calls = self._calls(contender)
        if contender != BASELINE:
            self._check(calls[0](), TF32_ERROR if contender == COMPILED else 0.0)
        return timing.in_turn(calls)

    def _seconds(self, contender: str) -> list[float]:
        if contender == COMPILED and self.device.type == "cpu":
            return self._in_child()
        if not contender.endswith(GRAPH):
            return timing.rounds(self.checked_call(contender), self.device)
        contender = contender.removesuffix(GRAPH)
        calls = self._calls(contender)[::-1]  # the last one is of the inputs that `exact` is for
        graph = timing.Graph(calls * math.ceil(timing.CALLS_IN_GRAPH / len(calls)))
        graph.replay()
        if contender != BASELINE:
            self._check(graph.results)
        return [seconds / graph.calls for seconds in timing.rounds(graph.replay, self.device)]

    def _calls(self, contender: str) -> list[timing.Call]:
        """One for each input set; the first has the inputs that `exact` is for."""
        function = self.case.operator.contenders[BASELINE if contender == COMPILED else contender]
        if contender == COMPILED:
            torch._dynamo.reset()
            function = torch.compile(function, dynamic=False)
        return [functools.partial(self.case.run, function, *tensors) for tensors in self.input_sets]

    def _in_child(self) -> list[float]:
        run, eager = DIRECTIONS[self.case.direction], self.case.operator.contenders[BASELINE]
        try:
            times, results = compiled.run_in_child(run, eager, self.case.shape, self.inputs, self.grad)
        except compiled.ChildFailed as failure:
            raise NoTime(str(failure)) from None
        self._check(results)
        return times

    def _check(self, results: Tensors, at_least: float = 0.0) -> None:
        error = relative_error(results, self.exact)
        if not error <= max(at_least, ALLOWED_ERROR[DTYPES[self.case.dtype]]):
            raise WrongResult(f"wrong result, so no time: relative error {error:.3g}")


def moved_bytes(inputs: Tensors, grad: Tensor, direction: str) -> int:
    """Forward: inputs and output once. Backward: the same again, and the gradients of the inputs."""
    read, output = sum(tensor.nbytes for tensor in inputs), grad.nbytes
    return read + output if direction == "forward" else 3 * read + 2 * output


def relative_error(results: Tensors, exact: Tensors) -> float:
    pairs = zip(results, exact, strict=True)
    return max(float((result.double() - truth).abs().max() / truth.abs().max()) for result, truth in pairs)
