"""The Markdown table and the targets, from canned results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.contenders import Case
from benchmarks.gpu_check import table
from benchmarks.gpu_check.targets import TARGETS, Target
from benchmarks.networks import ON_GPU
from benchmarks.operators import OPERATORS
from tests.benchmarks import canned

ROOT = Path(__file__).resolve().parents[2]


def target(text: str) -> Target:
    return next(target for target in TARGETS if target.text.startswith(text))


@pytest.mark.parametrize(
    ("text", "values", "verdict"),
    [
        ("outlook attention forward, batch 1", [25.0], "met"),
        ("outlook attention forward, batch 64", [0.8], "met"),
        ("feature norm forward", [0.5, 1 / 1.2], "falls short"),
        ("weight computation", [], "not measured"),
        ("one image", [10.0], "met"),
        ("32 images", [2.0], "falls short"),
        ("training step", [6.0, None], "not measured"),
    ],
)
def test_targets(text: str, values: list[float | None], verdict: str) -> None:
    results = canned.results()
    assert [reading.value for reading in target(text).readings(results)] == pytest.approx(values)
    assert target(text).verdict(results) == verdict
    assert target(text).verdict({"stages": {}}) == "not measured"


def test_targets_find_the_figures_that_a_gpu_gives() -> None:
    """By the names of the operators, their shapes and the contenders: a new name would leave a target unmeasured."""
    groups, runs = [], []
    for operator in OPERATORS:
        for shape in operator.gpu_shapes:
            case = Case(operator, shape, "forward", "float32")
            seconds = dict.fromkeys(("eager", "eager, graph", "ours", "ours, graph"), 1e-3)
            groups.append({**canned.group(operator.name, str(shape), shape.batch, seconds), "group": str(case)})
    for each in ON_GPU:
        for name in (each.name, f"{each.name}, graph"):
            runs += [canned.run(kind, batch, name, 1e-3) for kind in ("inference", "training") for batch in (1, 32)]
    results = {"stages": {"benchmark": canned.entry(figures={"groups": groups}),
                          "end-to-end": canned.entry(figures={"runs": runs})}}  # fmt: skip
    numbers = [len(list(target.readings(results))) for target in TARGETS]
    assert numbers == [1, 1, 2, 2, 1, 1, 2], "readings: two where both memory formats or both batch sizes count"
    assert all(reading.value is not None for target in TARGETS for reading in target.readings(results))


def test_markdown() -> None:
    text = table.markdown(canned.results())
    lines = text.splitlines()
    assert lines[0] == "# NVIDIA H100 80GB HBM3"
    assert "commit 0123456789ab; torch 2.11.0+cu130" in text and "132 multiprocessors, 50 MiB of L2" in text
    assert "Measured: copy 2,000 GB/s; GEMM bfloat16 700,000 GFLOP/s." in text and '{"cudnn.benchmark": true}' in text
    assert "| outlook attention forward, batch 1 | 20.0 times | outlook attention, 1x29x80x256 4 heads stride 1, " \
        "forward, float32: 25.0 times (both as graphs 20.0, ours as a graph against eager calls 100.0) | met |" in lines
    assert any(line.startswith("| feature norm") and "(33% counting each tensor once)" in line for line in lines)
    assert "| mffpa, ours bf16, graph | 1.000 ms | 1000.0 | 10.00 | 1.0e-03 | 4% | 1.00 GiB |" in lines
    assert "| mffpa, eager | out of memory |  |  |  |  |  |" in lines
    group = "outlook attention, 1x29x80x256 4 heads stride 1, forward, float32"
    assert f"| {group} | torch.compile | 50.00 us | 10.00 | 20,000 GB/s, 1000% |" in lines
    assert f"| {group} | ours | 20.00 us | 25.00 | 50,000 GB/s, 2500% |" in lines
    assert any("stride 1, forward, float32, cold | ours, graph | 625.00 us" in line for line in lines)
    assert "| memcheck | unavailable | 12 s | 0123456789ab | 2026-01-02 | Device not supported |" in lines
    assert "- test: tests.cuda.test_x::test_y: no" in lines and "- test: 2 skipped: needs two CUDA devices" in lines
    assert "Left out for want of time: 1 cases, from the last case." in lines


def test_profiles_stand_where_a_target_is_missed_and_nowhere_else() -> None:
    section = table.markdown(canned.results()).partition("## Where the time goes")[2].partition("## Stages")[0]
    titles = [line for line in section.splitlines() if "launches," in line]
    assert titles == [
        "feature norm, 32x32x640x232 contiguous, forward, float32: 50%; 3 launches, 40.0 us in kernels of 1500.0 us a "
        "call",
        "inference, batch 32: 2.0 times; 3 launches, 40.0 us in kernels of 20000.0 us a call",
    ]
    assert section.count("| `tiled<float/int>` | 1 | 30.0 us | 75% |") == 2, "a bar would end the cell"


def test_tables_are_well_formed() -> None:
    width = None
    for line in table.markdown(canned.results()).splitlines():
        if line.startswith("|"):
            assert width in (None, line.count("|")), line
            width = line.count("|")
        else:
            width = None


@pytest.mark.parametrize("stages", [{}, {"benchmark": canned.entry("failed")}, {"test": canned.entry(figures={})}])
def test_markdown_of_what_came_to_nothing(stages: dict) -> None:
    without_gpu = {"python": "3.12.3", "torch": "2.13.0+cpu", "gpu": None, "no_gpu": "nvidia-smi shows no GPU"}
    for machine in (without_gpu, canned.MACHINE):
        text = table.markdown({"machine": machine, "quick": True, "stages": stages})
        assert ("no GPU" in text) is (machine is without_gpu) and "A quick run" in text
        assert ("## Targets" in text) is (machine is not without_gpu)


def test_program(tmp_path: Path) -> None:
    (tmp_path / "gpu.json").write_text(json.dumps(canned.results()))
    command = [sys.executable, "-m", "benchmarks.gpu_check.table", str(tmp_path / "gpu.json")]
    subprocess.run(command, cwd=ROOT, check=True)
    assert (tmp_path / "gpu.md").read_text() == table.markdown(canned.results())
