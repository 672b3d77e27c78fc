"""What a CUDA graph may not contain: nothing in a prediction or a training step reads a value, or moves to the CPU.

Meta tensors have no values to read, and run on the compiled operators' fake kernels as tensors on a GPU run on their
kernels. Copies between devices, which a capture refuses as well, are looked for among the operators that torch calls.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import networks
from mffpa_ext import Predictor
from mffpa_ext.models import create_model

META = torch.device("meta")


class NoCopies(TorchDispatchMode):
    """Fails at an operator that takes or gives tensors of another device than meta."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        everything = tensors_in((args, kwargs or {}, result))
        assert all(tensor.is_meta for tensor in everything), f"{function} moves between devices"
        return result


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(part)


def test_a_copy_would_be_noticed() -> None:
    with NoCopies(), pytest.raises(AssertionError, match="moves between devices"):
        torch.ones(3).to(META)
    with NoCopies(), pytest.raises(RuntimeError):
        torch.ones(3, device=META).sum().item()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", networks.NAMES)
def test_prediction(name: str, precision: str) -> None:
    predictor = Predictor(create_model(name), precision, "cpu")
    predictor.model.to(META)
    prepared = torch.empty(2, 3, 128, 64, device=META, dtype=predictor.dtype)
    with NoCopies():
        decision, mask = predictor.run(prepared.contiguous(memory_format=torch.channels_last))
    assert decision.shape == (2, 1) and mask.shape == (2, 1, 16, 8)


@pytest.mark.parametrize("contender", networks.ON_GPU[:3], ids=lambda contender: contender.name)
def test_training_step(contender: networks.Contender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "autocast", lambda device, precision: nullcontext())  # knows no meta device
    both = {name: create_model(name) for name in networks.NAMES}
    with contender.setting():
        step = networks.training(contender, both, torch.empty(2, 3, 128, 64, device=META))
        step()  # makes what stays, such as the optimizer's state
        with NoCopies():
            loss = step()
    assert loss.is_meta and not loss.requires_grad
