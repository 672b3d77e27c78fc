"""The contenders end to end: networks as users of the published code run them, and ours.

The yardstick is the network `baseline` (Božič et al. 2021) in eager PyTorch, float32, with whatever arithmetic torch's
own settings give it (on a GPU: TF32 in convolutions, not in matrix products). Beside it: `mffpa` in the same manner,
and ours in float32 (on a GPU: TF32 in both) and bfloat16.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.published import as_published, eager
from mffpa_ext import Predictor
from mffpa_ext.models import DefectNetwork
from mffpa_ext.precision import autocast
from mffpa_ext.training.losses import LossWeights, loss_terms

Networks = dict[str, DefectNetwork]
NAMES = ("baseline", "mffpa")
CHECKED = 4  # images of a batch whose logits are compared


@dataclass(frozen=True)
class Contender:
    name: str
    network: str
    ours: bool
    precision: str = "fp32"
    matmul_precision: str = "highest"  # torch.set_float32_matmul_precision; "high" is TF32
    allowed_error: float = 1e-3  # of a logit or loss, relative to the largest

    @contextmanager
    def setting(self) -> Iterator[None]:
        """What its calls must be made in."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.matmul_precision)
        try:
            if self.ours:
                yield
            else:
                with eager():
                    yield
        finally:
            torch.set_float32_matmul_precision(before)

    def in_setting(self, run: Callable[[], object]) -> Callable[[], object]:
        def inside() -> object:
            with self.setting():
                return run()

        return inside


ON_CPU = (
    Contender("baseline, eager fp32", "baseline", ours=False),
    Contender("mffpa, eager fp32", "mffpa", ours=False),
    Contender("mffpa, ours fp32", "mffpa", ours=True),
    Contender("mffpa, ours bf16", "mffpa", ours=True, precision="bf16", allowed_error=0.2),
)
ON_GPU = (
    Contender("baseline, eager", "baseline", ours=False, allowed_error=0.05),
    Contender("mffpa, eager", "mffpa", ours=False, allowed_error=0.05),
    Contender("mffpa, ours TF32", "mffpa", ours=True, matmul_precision="high", allowed_error=0.05),
    Contender("mffpa, ours bf16", "mffpa", ours=True, precision="bf16", allowed_error=0.2),
)


def contenders(device: torch.device) -> tuple[Contender, ...]:
    """The yardstick first."""
    return ON_GPU if device.type == "cuda" else ON_CPU


def inference(contender: Contender, networks: Networks, images: Tensor) -> Callable[[], Tensor]:
    """A call that returns the decision logits [B, 1] of images [B, 3, H, W]."""
    if contender.ours:
        predictor = Predictor(networks[contender.network], contender.precision, images.device)
        prepared = predictor.prepare(images)
        return lambda: predictor.run(prepared)[0]
    model = as_published(networks[contender.network]).eval().to(images.device)

    @torch.inference_mode()
    def run() -> Tensor:
        return model(images)[0]

    return run


def training(contender: Contender, networks: Networks, images: Tensor) -> Callable[[], Tensor]:
    """A call that makes one step and returns its loss.

    The learning rate is 0, so that every step has the same loss, and none can run off; the work is that of any other.
    """
    if contender.ours:
        model = copy.deepcopy(networks[contender.network]).to(images.device, memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    else:
        model = as_published(networks[contender.network]).to(images.device)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    truth = _truth(images)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast(images.device, contender.precision):
            decision, mask_logits = model(images)
        loss = loss_terms(decision, mask_logits, truth).total(LossWeights(1.0, 0.1))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


KINDS = {"inference": inference, "training": training}


@torch.no_grad()
def exact(kind: str, network: DefectNetwork, images: Tensor) -> Tensor:
    """In float64: the logits of the first images, or the loss of all."""
    tuned, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False  # trying all algorithms takes long
    try:
        return _exact(kind, network, images)
    finally:
        torch.backends.cudnn.benchmark = tuned


def _exact(kind: str, network: DefectNetwork, images: Tensor) -> Tensor:
    with eager():
        model = as_published(network).double().to(images.device)
        if kind == "inference":
            return model.eval()(images[:CHECKED].double())[0]
        decision, mask_logits = model.train()(images.double())
        return loss_terms(decision, mask_logits, _truth(images)).total(LossWeights(1.0, 0.1)).double()


def relative_error(result: Tensor, truth: Tensor) -> float:
    """Of the logits of the first images, or of a loss; NaN never passes a comparison with it."""
    result = result[: len(truth)] if truth.dim() else result
    return float((result.double() - truth).abs().max() / truth.abs().max())


def _truth(images: Tensor) -> dict[str, Tensor]:
    batch, _, height, width = images.shape
    mask = (batch, 1, height // 8, width // 8)
    truth = {
        "target": torch.rand(mask, generator=torch.Generator().manual_seed(0)).round(), "weight": torch.ones(mask),
        "label": torch.ones(batch), "segmented": torch.ones(batch, dtype=torch.bool),
    }  # fmt: skip
    return {name: values.to(images.device) for name, values in truth.items()}
