"""A trained network, prepared once to predict as fast as its device can."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mffpa_ext.data.images import to_network_input
from mffpa_ext.inference.preprocessing import Preprocessing
from mffpa_ext.models import DefectNetwork
from mffpa_ext.nn import CoordinateAttention, LargeKernelConv2d
from mffpa_ext.precision import PRECISIONS
from mffpa_ext.training.checkpoint import read_checkpoint, restore_model
from mffpa_ext.training.config import pick_device


@dataclass(frozen=True)
class Prediction:
    """Of a batch, or of one image: then without the first dimension.

    logit: [B], of the image being defective. mask_logits: [B, height / 8, width / 8]. Both float32, on the device, made
    in inference mode: clone what is to be changed in place or to take part in a gradient.
    """

    logit: Tensor
    mask_logits: Tensor

    @property
    def score(self) -> Tensor:
        """The sigmoid of `logit`, [B], in float64, which keeps logits apart up to 36; in float32 all above 17 tie."""
        return self.logit.double().sigmoid()

    @property
    def mask_score(self) -> Tensor:
        """The sigmoid of the largest mask logit, [B], in float64."""
        return self.mask_logits.amax(dim=(-2, -1)).double().sigmoid()

    @property
    def mask(self) -> Tensor:
        """The probability of a defect at every mask pixel, [B, height / 8, width / 8]."""
        return self.mask_logits.sigmoid()


class Predictor:
    """Predicts with a snapshot of a network: later changes to the network given do not reach it.

    The snapshot has channels-last weights, cast once to the precision, and no gradients. It runs on the fused
    operators: normalisation with ReLU and pooling, large kernels in the frequency domain with spectra that are made at
    the first image and kept (CPU), the pyramid's weights in one pass.

    Args:
        source: a checkpoint file, or a network. `preprocessing` and `threshold` are those of the checkpoint, else None.
        precision: "fp32", "bf16" or "fp16". In half precision convolutions and linear layers have half weights;
            normalisations, coordinate attention and the decision keep float32 weights.
        device: "auto" (cuda where there is one), "cpu", "cuda", "cuda:1", ...
        memory_limit: bytes that the kept spectrum of each large kernel may take (CPU); None: 256 MiB.

    Raises UserError for a file that is no checkpoint of ours or a device that is not there, ValueError for an unknown
    precision.
    """

    def __init__(
        self,
        source: str | Path | DefectNetwork,
        precision: str = "fp32",
        device: str | torch.device = "auto",
        memory_limit: int | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"Predictor: precision must be one of {list(PRECISIONS)}, got {precision!r}")
        self.precision = precision
        self.device = pick_device(str(device))
        self.preprocessing: Preprocessing | None = None
        self.threshold: float | None = None
        if isinstance(source, nn.Module):
            model = copy.deepcopy(source).float()
        elif not isinstance(source, (str, Path)):
            raise TypeError(f"Predictor: source must be a checkpoint file or a network, got {type(source).__name__}")
        else:
            state = read_checkpoint(source)
            self.preprocessing, self.threshold = Preprocessing.of(state, source), state.get("threshold")
            model = restore_model(state)
        self.dtype = PRECISIONS[precision] or torch.float32
        self.model = model.eval().requires_grad_(False).to(self.device, memory_format=torch.channels_last)
        for module in self.model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)) and module is not getattr(self.model, "decision", None):
                module.to(self.dtype)
        for module in self.model.modules():
            if isinstance(module, CoordinateAttention):
                module.float()  # its operator computes in float32: else it would convert ten tensors at every image
            if isinstance(module, LargeKernelConv2d) and memory_limit is not None:
                module.memory_limit = memory_limit

    def __call__(self, images: Tensor) -> Prediction:
        """images: uint8, or floating point in 0..1; [B, channels, height, width], or one image without B.

        Raises ValueError for anything else, and for a size that the network cannot take (see DefectNetwork).
        """
        if not isinstance(images, Tensor):
            raise ValueError(f"Predictor: images must be a tensor (torch.as_tensor), got {type(images).__name__}")
        if images.dim() not in (3, 4):
            raise ValueError(
                f"Predictor: images must be [batch, channels, height, width] or [channels, height, width], got shape "
                f"{tuple(images.shape)}"
            )
        decision, mask = self.run(self.prepare(images if images.dim() == 4 else images[None]))
        prediction = Prediction(decision.squeeze(1).float(), mask.squeeze(1).float())
        if images.dim() == 3:
            return Prediction(prediction.logit[0], prediction.mask_logits[0])
        return prediction

    def prepare(self, images: Tensor) -> Tensor:
        """A batch as the network takes it: on the device, in 0..1 and the precision's dtype, channels last."""
        if images.dtype == torch.uint8:
            return to_network_input(images, self.device).to(self.dtype)
        if not images.is_floating_point():
            raise ValueError(f"Predictor: images must be uint8, or floating point in 0..1, got {images.dtype}")
        if images.numel() and not (images.min() >= 0 and images.max() <= 1):
            low, high = images.min().item(), images.max().item()
            raise ValueError(f"Predictor: floating-point images must be in 0..1, got {low:.4g} to {high:.4g}")
        return images.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """The network alone: what `prepare` gave to decision logits [B, 1] and mask logits [B, 1, H / 8, W / 8]."""
        with torch.autocast(self.device.type, enabled=False):  # the precision is the Predictor's, wherever it is used
            return self.model(prepared)
