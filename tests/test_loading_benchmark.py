"""`python -m benchmarks.loading` where no real images are at hand."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import loading


@pytest.mark.slow
def test_it_measures_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.delenv("MFFPA_DATA", raising=False)
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["loading", "--steps", "2", "--images", "8", "--json", str(file)])
    loading.main()
    out, figures = capsys.readouterr().out, json.loads(file.read_text())
    assert "KolektorSDD at 1x1408x512, noise in its place" in out and figures["shape"] == [1, 1408, 512]
    assert len(figures["results"]) == 3 and out.count("%") == 3
    for name, row in figures["results"].items():
        assert 0 < row["wait_seconds"] < row["step_seconds"] and row["share"] < 0.05, name
        assert row.get("images_per_second", 1) > 0
