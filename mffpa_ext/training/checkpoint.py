"""Checkpoints: tensors and primitives only, written whole or not at all, loaded without running any code."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from mffpa_ext.errors import UserError
from mffpa_ext.models import DefectNetwork, create_model

FORMAT = "mffpa_ext.checkpoint"
VERSION = 2

# What every checkpoint holds, and what continuing its run needs beside that.
_KEYS = {"config": dict, "preprocessing": dict, "notes": list, "model_facts": dict, "model": dict, "epoch": int,
         "best": dict}
_CONFIG_KEYS = {"seed": int, "precision": str}
_TRAINING_KEYS = {"optimizer": dict, "scaler": dict, "sampler": dict, "log": list}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and primitives) beside `path`, then moves it there: `path` is never half-written.

    Raises UserError where it cannot be written (a full disk, a folder that is gone); what was there stays.
    """
    content = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **state}, content)
    temporary = None
    try:
        # Written by Python, not by torch, whose writer turns a full disk into a RuntimeError about positions.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives it to its owner alone
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        kept = "the one that was there is unharmed; " if path.is_file() else ""
        raise UserError(
            f"{path}: the checkpoint could not be written ({error.strerror}): {kept}make room or choose another folder"
        ) from None


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote. Raises UserError for a file that is missing, damaged or not ours."""
    path = Path(path)
    expected = "expected a checkpoint of mffpa_ext, such as RUN/best.pt"
    if not path.is_file():
        raise UserError(f"{path}: {expected}, found {'a folder' if path.is_dir() else 'no such file'}")
    try:
        if not zipfile.is_zipfile(path):  # a plain pickle is not even looked into
            what = "a file of another kind, or only a part of one" if path.stat().st_size else "an empty file"
            raise UserError(f"{path}: {expected}, found {what}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about archives of TorchScript, which fail below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: {expected}; this file is damaged or holds more than tensors: nothing of it was run"
        ) from None
    # A damaged file fails wherever the damage is met, in Python as in torch.
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: {expected}; this file is damaged or of another kind ({reason[:120]})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: {expected}; this file was written by another program")
    if state.get("version") != VERSION:
        raise UserError(
            f"{path}: a checkpoint of format version {state.get('version')}, this version reads {VERSION}: "
            f"use the mffpa_ext {state.get('mffpa_ext', 'release')} that wrote it"
        )
    _check_keys(path, state, _KEYS)
    _check_keys(path, state["config"], _CONFIG_KEYS)
    _check_weights(path, state)
    return state


def read_training_state(path: str | Path) -> dict[str, Any]:
    """The state of a run that can be continued. Raises UserError as `read_checkpoint` does."""
    state = read_checkpoint(path)
    _check_keys(Path(path), state, _TRAINING_KEYS)
    return state


def _check_keys(path: Path, state: dict[str, Any], keys: dict[str, type]) -> None:
    for key, kind in keys.items():
        if not isinstance(state.get(key), kind):
            found = "nothing" if key not in state else f"a {type(state[key]).__name__}"
            raise UserError(f"{path}: damaged: expected a {kind.__name__} under {key!r}, found {found}: "
                            f"use another checkpoint of the run")


def _check_weights(path: Path, state: dict[str, Any]) -> None:
    """Compares names and shapes with those of the network that the checkpoint names, at no cost: on the meta device."""
    try:
        with torch.device("meta"):
            network = create_model(**state["model_facts"])
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged: model_facts describe no network ({error}): "
                        f"use another checkpoint of the run") from None
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(getattr(value, "shape", ())) for name, value in state["model"].items()}
    wrong = [name for name in expected | found if expected.get(name) != found.get(name)]
    if wrong:
        raise UserError(f"{path}: damaged: the weights are not those of the network {network.name} "
                        f"({len(wrong)} differ, first {wrong[0]}): use another checkpoint of the run")


def model_facts(model: DefectNetwork) -> dict[str, Any]:
    """What `restore_model` needs beside the weights."""
    return {
        "name": model.name,
        "in_channels": model.in_channels,
        "attention": model.attention or "ca",
        "gradient_stop": model.gradient_stop,
    }


def restore_model(state: dict[str, Any]) -> DefectNetwork:
    """The network of a checkpoint, with its weights, in evaluation mode on the CPU."""
    model = create_model(**state["model_facts"])
    model.load_state_dict(state["model"])
    return model.eval()


def load(path: str | Path) -> DefectNetwork:
    """Loads the network of a checkpoint, in evaluation mode on the CPU.

    Its forward takes images [B, in_channels, H, W] in 0..1. Raises UserError as `read_checkpoint` does.
    """
    return restore_model(read_checkpoint(path))
