"""Checkpoints: nothing but tensors and primitives, whole or not there, and safe to open whoever made them."""

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mffpa_ext
from mffpa_ext.errors import UserError
from mffpa_ext.models import create_model
from mffpa_ext.training import checkpoint
from mffpa_ext.training.checkpoint import model_facts, read_checkpoint, read_training_state, save_checkpoint

from .conftest import same_weights


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(3)
    return create_model("mff", 1, gradient_stop=False)


@pytest.fixture
def state(network: torch.nn.Module) -> dict[str, Any]:
    return {
        "mffpa_ext": "0.1.0", "config": {"seed": 0, "precision": "fp32"}, "preprocessing": {}, "notes": [],
        "model_facts": model_facts(network), "model": network.state_dict(), "epoch": 1,
        "best": {"epoch": 1, "ap": None, "auc": None},
        "optimizer": {}, "scaler": {}, "sampler": {}, "log": [],
    }


@pytest.fixture
def path(tmp_path: Path):
    yield tmp_path / "best.pt"
    for file in tmp_path.glob("*.pt"):  # 34 MB each
        file.unlink()


def refused(path: Path, match: str, read=read_checkpoint) -> None:
    with pytest.raises(UserError, match=match) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def foreign_types(value: Any, where: str = "") -> list[str]:
    """Every place in a state that holds something other than a tensor or a primitive."""
    if isinstance(value, dict):
        return [place for key, item in value.items() for place in foreign_types(key, f"{where}.{key} (key)")
                + foreign_types(item, f"{where}.{key}")]
    if type(value) in (list, tuple):
        return [place for i, item in enumerate(value) for place in foreign_types(item, f"{where}[{i}]")]
    return [] if value is None or type(value) in (torch.Tensor, int, float, str, bool) else [f"{where}: {type(value)}"]


def test_round_trip_and_restored_network(path: Path, state: dict, network: torch.nn.Module) -> None:
    save_checkpoint(path, state)
    raw = torch.load(path, weights_only=True)
    assert (raw["format"], raw["version"]) == ("mffpa_ext.checkpoint", 2)
    restored = mffpa_ext.load(path)
    assert same_weights(restored.state_dict(), network.state_dict())
    assert not restored.training
    assert (restored.name, restored.in_channels, restored.gradient_stop) == ("mff", 1, False)
    x = torch.rand(1, 1, 64, 64)
    for ours, theirs in zip(restored(x), network.eval()(x)):
        assert torch.equal(ours, theirs)


def test_the_checkpoint_of_a_training_holds_tensors_and_primitives_only(make_trainer, folder) -> None:
    make_trainer(epochs=1).fit()
    for file in (folder.last, folder.best):
        assert foreign_types(torch.load(file, weights_only=True)) == []
    assert oct(folder.last.stat().st_mode & 0o777) == "0o644"


def test_the_walk_finds_what_is_foreign() -> None:
    assert foreign_types({"a": [1, {"b": np.float64(1.0)}]}) == [".a[1].b: <class 'numpy.float64'>"]
    assert foreign_types({"a": Path("x")}) and not foreign_types({"a": (1, None, torch.zeros(1))})


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_write_that_fails_leaves_the_old_file_alone(path: Path, state: dict, step: str, monkeypatch) -> None:
    path.write_bytes(b"the old one")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, step, full)
    with pytest.raises(UserError, match=r"best\.pt: .*No space left on device.*unharmed"):
        save_checkpoint(path, state)
    assert path.read_bytes() == b"the old one"
    assert os.listdir(path.parent) == ["best.pt"]


def test_an_interruption_while_writing_leaves_the_old_file_alone(path: Path, state: dict, monkeypatch) -> None:
    path.write_bytes(b"the old one")

    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, state)
    assert path.read_bytes() == b"the old one" and os.listdir(path.parent) == ["best.pt"]


def test_a_disk_that_takes_no_more_bytes(path: Path) -> None:
    """With the real limit of the system on the size of a file, in a process of its own."""
    path.write_bytes(b"the old one")
    script = (
        "import resource, sys, torch; from pathlib import Path; from mffpa_ext.errors import UserError\n"
        "from mffpa_ext.training.checkpoint import save_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: save_checkpoint(Path(sys.argv[1]), {'model': torch.zeros(100_000)})\n"
        "except UserError as error: sys.exit(str(error))\n"
    )
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert run.returncode == 1
    assert f"{path}: the checkpoint could not be written (File too large)" in run.stderr
    assert path.read_bytes() == b"the old one" and os.listdir(path.parent) == ["best.pt"]


def test_a_folder_that_is_gone(tmp_path: Path, state: dict) -> None:
    with pytest.raises(UserError, match="gone/best.pt: the checkpoint could not be written .No such file"):
        save_checkpoint(tmp_path / "gone" / "best.pt", state)


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("archive", [True, False], ids=["torch archive", "plain pickle"])
def test_a_malicious_pickle_is_refused_and_runs_nothing(path: Path, archive: bool) -> None:
    mark = path.parent / "it ran"
    if archive:
        torch.save({"format": "mffpa_ext.checkpoint", "version": 2, "model": _Bomb(mark)}, path)
    else:
        path.write_bytes(pickle.dumps({"format": "mffpa_ext.checkpoint", "model": _Bomb(mark)}))
    refused(path, "nothing of it was run" if archive else "found a file of another kind")
    assert not mark.exists()
    torch.load(path, weights_only=False) if archive else pickle.loads(path.read_bytes())
    assert mark.exists()  # the bomb is live: only the reader kept it from going off


@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "found an empty file"),
        (b"epoch,loss\n1,0.5\n", "found a file of another kind"),
        (os.urandom(4096), "found a file of another kind"),
    ],
    ids=["empty", "text", "noise"],
)
def test_files_of_another_kind(path: Path, content: bytes, match: str) -> None:
    path.write_bytes(content)
    refused(path, f"expected a checkpoint of mffpa_ext.*{match}")


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    refused(tmp_path / "no.pt", "found no such file")
    refused(tmp_path, "found a folder")


@pytest.mark.parametrize("part", [0.001, 0.5, 0.999])
def test_a_truncated_checkpoint(path: Path, state: dict, part: float) -> None:
    save_checkpoint(path, state)
    os.truncate(path, int(path.stat().st_size * part))
    refused(path, "only a part of one")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_zip_archives_that_are_no_checkpoints(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    refused(path, "damaged or of another kind")
    torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.zeros(1)), path)
    refused(path, "expected a checkpoint of mffpa_ext")


@pytest.mark.parametrize("content", [{"conv.weight": torch.zeros(2)}, [1, 2], torch.zeros(3), {"format": "other"}])
def test_checkpoints_of_other_programs(path: Path, content: Any) -> None:
    torch.save(content, path)
    refused(path, "written by another program")


@pytest.mark.parametrize("version", [1, None, "2"])
def test_another_version_says_which(path: Path, state: dict, version: object) -> None:
    torch.save({"format": "mffpa_ext.checkpoint", **state, "version": version}, path)
    refused(path, f"format version {version}, this version reads 2: use the mffpa_ext 0.1.0 that wrote it")


@pytest.mark.parametrize("key", ["config", "notes", "model_facts", "model", "epoch", "best"])
@pytest.mark.parametrize("how", ["missing", "of another type"])
def test_a_key_that_is_not_as_written(path: Path, state: dict, key: str, how: str) -> None:
    if how == "missing":
        del state[key]
    else:
        state[key] = torch.zeros(1)
    save_checkpoint(path, state)
    refused(path, f"damaged: expected a .* under '{key}', found {'nothing' if how == 'missing' else 'a Tensor'}")


@pytest.mark.parametrize("key", ["optimizer", "scaler", "sampler", "log"])
def test_continuing_needs_more_than_the_weights(path: Path, state: dict, key: str) -> None:
    del state[key]
    save_checkpoint(path, state)
    assert read_checkpoint(path)["epoch"] == 1  # enough for an evaluation
    refused(path, f"under '{key}', found nothing", read_training_state)


def test_weights_of_another_network(path: Path, state: dict) -> None:
    save_checkpoint(path, state | {"model_facts": state["model_facts"] | {"name": "baseline"}})
    refused(path, "the weights are not those of the network baseline")
    weights = dict(state["model"])
    weights["decision.weight"] = weights["decision.weight"][:, :5].clone()
    save_checkpoint(path, state | {"model": weights})
    refused(path, r"network mff \(1 differ, first decision.weight\)")
    del weights["decision.weight"]
    save_checkpoint(path, state | {"model": weights | {"decision.weights": torch.zeros(1, 66)}})
    refused(path, r"network mff \(2 differ")


@pytest.mark.parametrize("facts", [{"name": "resnet"}, {"depth": 50}, {"name": None}, {"in_channels": "1"}])
def test_facts_that_describe_no_network(path: Path, state: dict, facts: dict) -> None:
    save_checkpoint(path, state | {"model_facts": state["model_facts"] | facts})
    refused(path, "damaged: model_facts describe no network")


def test_without_facts_the_weights_are_not_those_of_the_default_network(path: Path, state: dict) -> None:
    save_checkpoint(path, state | {"model_facts": {}})
    refused(path, "the weights are not those of the network mffpa")
