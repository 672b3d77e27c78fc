"""Checkpoints: tensors and primitives only, written whole or not at all, loaded without running any code."""

from __future__ import annotations

import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch

from mffpa_ext.errors import UserError
from mffpa_ext.models import DefectNetwork, create_model

FORMAT = "mffpa_ext.checkpoint"
VERSION = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and primitives) beside `path`, then moves it there: `path` is never half-written."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": FORMAT, "version": VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp gives it to its owner alone
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote. Raises UserError for a file that is missing, damaged or not ours."""
    path = Path(path)
    expected = "expected a checkpoint of mffpa_ext, such as RUN/best.pt"
    if not path.is_file():
        raise UserError(f"{path}: {expected}, found {'a folder' if path.is_dir() else 'no such file'}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path}: {expected}; this file holds more than tensors and was not opened") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: {expected}; this file is damaged or of another kind ({reason[:120]})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: {expected}; this file was written by another program")
    if state["version"] != VERSION:
        raise UserError(
            f"{path}: a checkpoint of format version {state['version']}, this version reads {VERSION}: "
            f"use the mffpa_ext {state.get('mffpa_ext', 'release')} that wrote it"
        )
    return state


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
