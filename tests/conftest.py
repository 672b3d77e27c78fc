"""Fixtures that tests of several folders share."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory; what a run leaves in it goes, as checkpoints have 45 MB."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def command(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Runs `mffpa ...` to its end: exit code, standard output, standard error."""
    from mffpa_ext import cli  # late: tests that need no package load this file too
    from mffpa_ext.command import run_command

    def command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            run_command(cli.dispatch, list(map(str, arguments)))
        return end.value.code, *capsys.readouterr()

    return command
