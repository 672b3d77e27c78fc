"""Settings of a training run. Every field is a command-line flag of `python -m mffpa_ext.train`."""

from dataclasses import asdict, dataclass, replace

import torch

from mffpa_ext.errors import UserError
from mffpa_ext.fields import flag
from mffpa_ext.models import ATTENTIONS, VARIANTS
from mffpa_ext.precision import PRECISIONS
from mffpa_ext.training.recipes import RECIPES, find_recipe

# What an operating threshold may be chosen for; see `evaluation.threshold`.
THRESHOLD_RULES = ("f1", "fpr", "recall")


@dataclass(frozen=True)
class TrainConfig:
    """Network and training."""

    model: str = flag("mffpa", "network; baseline is MixSup's", choices=tuple(VARIANTS))
    attention: str = flag("ca", "weights of the pyramid of pa and mffpa: coordinate or SE", choices=tuple(ATTENTIONS))
    recipe: str | None = flag(
        None, "settings to start from; default: paper, and quick for synthetic", choices=tuple(RECIPES)
    )
    epochs: int | None = flag(None, "epochs; one shows all defective images and as many others; default: the recipe's")
    lr: float | None = flag(None, "learning rate of SGD; default: the recipe's")
    lr_schedule: str | None = flag(
        None, "cosine: from lr to 0 over the run; default: the recipe's", choices=("constant", "cosine")
    )
    theta: float | None = flag(None, "weight of the classification loss (Eq. 4); default: the recipe's")
    loss_weights: str | None = flag(
        None,
        "dynamic: from segmentation to classification over the epochs (Eq. 4); constant: 1 and theta; "
        "default: the recipe's",
        choices=("dynamic", "constant"),
    )
    batch_size: int | None = flag(None, "images per step, whose gradients are summed; default: the recipe's")
    grad_clip: float | None = flag(None, "largest gradient norm, 0 for no limit; default: the recipe's")
    gradient_stop: str | None = flag(
        None,
        "keep the classification loss from the segmentation network; auto: on where a pixel mask is used; "
        "default: the recipe's",
        choices=("on", "off", "auto"),
    )
    augment: str = flag("none", "flips: mirror training images at random", choices=("none", "flips"))
    precision: str = flag("fp32", "arithmetic of convolutions and linear layers", choices=tuple(PRECISIONS))
    device: str = flag("auto", "cpu, cuda, cuda:1, ...; auto: cuda where there is one")
    seed: int = flag(0, "of weights, splits and the order of images")
    eval_batch_size: int = flag(8, "images per step in evaluation")
    threshold_rule: str = flag(
        "f1",
        "operating threshold, chosen on validation images: f1, the best F1; fpr, at most --threshold-fpr false alarms; "
        "recall, no defect missed, with --threshold-margin",
        choices=THRESHOLD_RULES,
    )
    threshold_fpr: float = flag(0.01, "fpr: part of the defect-free images that may be called defective, 0 to below 1")
    threshold_margin: float = flag(
        1.0, "recall: how far below the weakest defect the threshold lies, in logits; 1: at odds 2.7 times lower"
    )
    timing_images: int = flag(100, "images that inference time is measured with at the end, 0 for none")
    output: str | None = flag(None, "run folder; default: runs/DATE-TIME-DATASET-MODEL")


def resolve(config: TrainConfig, dataset: str, masks_used: bool, positives: int | None = None) -> TrainConfig:
    """The config without a None: what was left out is the recipe's. `gradient_stop` becomes "on" or "off".

    masks_used: some defective training image has its pixel mask (N > 0). positives: number of defective training
    images, which some recipes train less long with the more there are; None: not known yet.
    Raises UserError for a setting out of range.
    """
    name, recipe = find_recipe(config.recipe, dataset, not masks_used, positives)
    settings = {key: value for key, value in asdict(recipe).items() if getattr(config, key) is None}
    config = replace(config, recipe=name, **settings)
    if config.gradient_stop == "auto":
        # Without masks, image labels are all there is to train the segmentation network with.
        config = replace(config, gradient_stop="on" if masks_used else "off")
    _check_ranges(config)
    return config


def pick_device(name: str) -> torch.device:
    """Raises UserError for a device that is unknown or not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: expected auto, cpu, cuda, or one of several GPUs such as cuda:1")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises AssertionError where CUDA is not compiled in
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--device {name}: expected a GPU that is there, found none ({reason}): use cpu") from None
    return device


def _check_ranges(config: TrainConfig) -> None:
    expectations = (
        ("epochs", config.epochs >= 1, "1 or more"),
        ("lr", config.lr > 0, "above 0"),
        ("theta", config.theta >= 0, "0 or more"),
        ("batch_size", config.batch_size >= 1, "1 or more"),
        ("grad_clip", config.grad_clip >= 0, "0 (off) or more"),
        ("eval_batch_size", config.eval_batch_size >= 1, "1 or more"),
        ("timing_images", config.timing_images >= 0, "0 (off) or more"),
        ("threshold_fpr", 0 <= config.threshold_fpr < 1, "0 to below 1"),
        ("threshold_margin", config.threshold_margin >= 0, "0 or more"),
        ("seed", 0 <= config.seed < 2**63, "0 to 2^63 - 1"),
        ("output", config.output != "", "a folder"),
    )
    for name, holds, expected in expectations:
        if not holds:
            raise UserError(f"--{name.replace('_', '-')}: expected {expected}, got {getattr(config, name)!r}")
