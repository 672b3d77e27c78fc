"""The micro-benchmarks' runner, on the CPU and, with a stand-in for torch.cuda, by its code for a GPU."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from benchmarks import contenders, machine, micro
from benchmarks.contenders import Bench, Case, Operator
from benchmarks.operators import OPERATORS
from tests.benchmarks.conftest import FakeCuda
from tests.ops.support import needs_kernels

CPU = torch.device("cpu")
MEANS = next(operator for operator in OPERATORS if operator.name == "directional means")


@pytest.fixture
def gpu(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A device that calls itself cuda; its tensors lie on the CPU."""
    inputs = Case.inputs
    monkeypatch.setattr(Case, "inputs", lambda case, device, seed=0: inputs(case, CPU, seed))
    monkeypatch.setattr(machine, "copy_limit", lambda work, device: 1e9)
    monkeypatch.setattr(micro, "profile", lambda run, device: {"device_us": 1.0, "launches": 1.0, "kernels": []})
    return SimpleNamespace(type="cuda")


def telling(operator: Operator, batch: int) -> Case:
    shape = next(shape for shape in operator.small if shape.batch == batch)
    return Case(operator, shape, "forward", "float32")


def with_ours(function: Callable[..., Tensor]) -> Operator:
    pairs = {"eager": MEANS.contenders["eager"], "ours": function}
    return Operator("means", MEANS.make_inputs, pairs, (), small=MEANS.small)


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator.name)
def test_every_operator_on_the_cpu_is_right_and_timed(operator: Operator) -> None:
    assert operator.small and operator.shapes
    for case in operator.cases(operator.small[:1]):
        bench = Bench(case, CPU)
        for contender in (*operator.contenders, *operator.limits):
            bench.checked_call(contender)()


@needs_kernels
@pytest.mark.parametrize("operator", [o for o in OPERATORS if o.gpu_shapes], ids=lambda operator: operator.name)
@pytest.mark.parametrize("batch", [1, 32])
def test_every_operator_by_the_code_for_a_gpu(gpu: SimpleNamespace, operator: Operator, batch: int) -> None:
    case = telling(operator, batch)
    bench = Bench(case, gpu)
    names = [name for name in operator.contender_names(gpu) if name != "torch.compile"]
    assert names == ["eager", "eager, graph", "ours", "ours, graph"]
    entry, faults = micro.measure(bench, names)
    assert not faults and not entry["failures"]
    assert list(entry["seconds"]) == names and all(seconds > 0 for seconds in entry["seconds"].values())
    assert entry["cold"] is (batch == 32) and len(bench.input_sets) == (contenders.MOST_SETS if batch == 32 else 1)
    micro.add_profiles(bench, entry)
    assert set(entry["profiles"]) == {"eager", "ours"}
    json.dumps(entry)


def test_inputs_of_a_cold_run_differ_and_outgrow_the_cache(gpu: SimpleNamespace) -> None:
    bench = Bench(telling(MEANS, 32), gpu)
    firsts = [inputs[0] for inputs, _ in bench.input_sets]
    assert len({float(x.sum()) for x in firsts}) == len(firsts)
    assert torch.equal(firsts[0], bench.inputs[0])


def test_a_graph_is_checked_against_the_inputs_it_was_captured_with(gpu: SimpleNamespace, fake_cuda: FakeCuda) -> None:
    """Wrong only while it is captured: the call alone would pass."""

    def ours(shape, x: Tensor) -> Tensor:
        return MEANS.contenders["eager"](shape, x) * (2 if fake_cuda.capturing else 1)

    entry, faults = micro.measure(Bench(telling(with_ours(ours), 32), gpu), ["ours", "ours, graph"])
    assert list(entry["seconds"]) == ["ours"]
    assert "wrong result" in entry["failures"]["ours, graph"] and len(faults) == 1


def test_wrong_results_and_exceptions_are_faults_but_not_a_want_of_memory() -> None:
    def raising(error: Exception) -> Callable[..., Tensor]:
        def ours(shape, x: Tensor) -> Tensor:
            raise error

        return ours

    def measured(ours: Callable[..., Tensor]) -> tuple[str, list[str]]:
        entry, faults = micro.measure(Bench(telling(with_ours(ours), 1), CPU), ["ours"])
        assert not entry["seconds"]
        return entry["failures"]["ours"], faults

    reason, faults = measured(lambda shape, x: MEANS.contenders["eager"](shape, x) + 1e-3)
    assert "wrong result, so no time: relative error" in reason and len(faults) == 1
    reason, faults = measured(lambda shape, x: MEANS.contenders["eager"](shape, x) * torch.nan)
    assert "relative error nan" in reason and len(faults) == 1
    reason, faults = measured(raising(RuntimeError("no\nkernel")))
    assert reason == "RuntimeError: no kernel" and "means" in faults[0]
    assert measured(raising(torch.OutOfMemoryError("CUDA out of memory"))) == ("out of memory", [])


def test_most_telling_cases_come_first() -> None:
    cases = micro.choose_cases(torch.device("cuda"), "", small=False, quick=False)
    first = [(case.operator.name, case.shape.batch) for case in cases[:12]]
    assert len(set(first)) == 12 == len({(case.operator.name, case.shape.batch) for case in cases})
    quick = micro.choose_cases(torch.device("cuda"), "", small=False, quick=True)
    assert quick == cases[: len(quick)] and all(micro.is_telling(case) for case in quick) and len(quick) < len(cases)
    assert {case.operator.name for case in micro.choose_cases(CPU, "gate,norm", False, False)} == {
        "pyramid gate", "feature norm",
    }  # fmt: skip


def test_command_stores_after_every_case_and_says_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(machine, "rates", lambda device: {"copy": 1e9})
    monkeypatch.setattr(machine, "copy_limit", lambda work, device: 1e9)
    path = tmp_path / "micro.json"
    assert micro.main(["--small", "--operators", "means", "--json", str(path)]) == 0
    stored = json.loads(path.read_text())
    assert len(stored["groups"]) == 4 and not stored["left_out"] and not stored["faults"]
    assert micro.main(["--small", "--operators", "means", "--seconds", "-1", "--json", str(path)]) == 1
    stored = json.loads(path.read_text())
    assert len(stored["left_out"]) == 4 and stored["faults"] == ["nothing could be timed"]
    assert "time was up: 4 cases left out" in capsys.readouterr().out
