"""End to end: the contenders on the CPU, and the code for a GPU on a stand-in for torch.cuda."""

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks import end_to_end, networks
from mffpa_ext.models import create_model
from tests.benchmarks.conftest import FakeCuda

SIZE = (1, 3, 128, 64)  # the smallest at which the baseline's last plane has more than one pixel


@pytest.fixture(scope="module")
def both() -> networks.Networks:
    torch.manual_seed(0)
    return {name: create_model(name) for name in networks.NAMES}


@pytest.fixture
def on_gpu(fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> end_to_end.Report:
    monkeypatch.setattr(end_to_end, "contenders", lambda device: networks.ON_GPU)
    monkeypatch.setattr(end_to_end, "GPU_SECONDS", 0.0)
    monkeypatch.setattr(end_to_end, "GPU_ROUNDS", 1)
    return end_to_end.Report(tmp_path / "runs.json", {})


def test_command_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "runs.json"
    threads = str(torch.get_num_threads())
    arguments = ["--image-size", "128x64", "--rounds", "1", "--only", "inference", "--threads", threads]
    assert end_to_end.main([*arguments, "--json", str(path)]) == 0
    stored = json.loads(path.read_text())
    assert [run["contender"] for run in stored["runs"]] == [each.name for each in networks.ON_CPU]
    for run, contender in zip(stored["runs"], networks.ON_CPU, strict=True):
        assert run["error"] <= contender.allowed_error and run["images_per_second"] == pytest.approx(1 / run["seconds"])
    assert "1.00 times" in capsys.readouterr().out


@pytest.mark.parametrize("kind", list(networks.KINDS))
def test_contenders_on_a_gpu_run_as_called_and_as_graphs(
    on_gpu: end_to_end.Report, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """What they compute is tested below and in test_capture.py."""
    truth = torch.tensor(1.0)
    monkeypatch.setitem(networks.KINDS, kind, lambda contender, networks_, images: lambda: truth + 1e-3)
    monkeypatch.setattr(end_to_end, "exact", lambda kind, network, images: truth)
    neither = dict.fromkeys(networks.NAMES)
    end_to_end.on_gpu(kind, neither, torch.rand(SIZE), on_gpu, time.monotonic() + 100)
    end_to_end.add_profiles(kind, neither, torch.rand(SIZE), on_gpu, time.monotonic() + 100)
    stored = json.loads(on_gpu.path.read_text())
    names = [name for each in networks.ON_GPU for name in (each.name, each.name + ", graph")]
    assert [run["contender"] for run in stored["runs"]] == names
    assert not stored["faults"] and all(run["seconds"] > 0 for run in stored["runs"]), stored["runs"]
    assert all("profile" in run and run["peak_bytes"] for run in stored["runs"])


def test_what_goes_wrong_is_recorded_and_the_others_go_on(
    on_gpu: end_to_end.Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = torch.ones(1, 1)

    def inference(contender: networks.Contender, networks_: networks.Networks, images: torch.Tensor):
        if contender.name == "baseline, eager":
            raise torch.OutOfMemoryError("CUDA out of memory")
        if contender.name == "mffpa, ours TF32":
            return lambda: torch.full((1, 1), torch.nan)
        if contender.name == "mffpa, ours bf16":
            raise RuntimeError("no kernel")
        return lambda: truth

    monkeypatch.setitem(networks.KINDS, "inference", inference)
    monkeypatch.setattr(end_to_end, "exact", lambda kind, network, images: truth)
    neither = dict.fromkeys(networks.NAMES)
    end_to_end.on_gpu("inference", neither, torch.rand(SIZE), on_gpu, time.monotonic() + 100)
    runs = {run["contender"]: run.get("failure", "timed") for run in on_gpu.content["runs"]}
    assert runs == {
        "baseline, eager": "out of memory",
        "mffpa, eager": "timed", "mffpa, eager, graph": "timed",
        "mffpa, ours TF32": "wrong result, so no time: relative error nan",
        "mffpa, ours bf16": "RuntimeError: no kernel",
    }  # fmt: skip
    assert len(on_gpu.content["faults"]) == 2, "a want of memory is none"


def test_nothing_begins_after_the_time_is_up(on_gpu: end_to_end.Report) -> None:
    end_to_end.on_gpu("training", {}, torch.rand(SIZE), on_gpu, time.monotonic() - 1)
    assert not on_gpu.content["runs"]
    assert on_gpu.content["left_out"] == [f"training, batch 1: {each.name}" for each in networks.ON_GPU]


def test_settings_are_left_as_they_were(both: networks.Networks) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    with networks.ON_GPU[2].setting():
        assert torch.get_float32_matmul_precision() == "high"
    networks.exact("inference", both["mffpa"], torch.rand(SIZE))
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark) == before


def test_contenders_compute_the_same(both: networks.Networks) -> None:
    images = torch.rand(SIZE)
    for kind, make in networks.KINDS.items():
        truth = networks.exact(kind, both["mffpa"], images)
        for contender in networks.ON_GPU[1:]:
            with contender.setting():
                error = networks.relative_error(make(contender, both, images)(), truth)
            assert error <= (1e-4 if contender.precision == "fp32" else contender.allowed_error), (kind, contender)


def test_steps_of_a_training_contender_repeat_themselves(both: networks.Networks) -> None:
    """Else a loss could not be compared after a warm-up, and a long run might end in NaN."""
    step = networks.training(networks.ON_GPU[2], both, torch.rand(SIZE))
    assert torch.equal(step(), step())
