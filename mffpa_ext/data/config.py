"""Which data set is used, and how its images become training targets. Every field is a command-line flag."""

from dataclasses import dataclass, fields, replace
from typing import Any

from mffpa_ext.data.bad_images import POLICIES
from mffpa_ext.data.facts import DAGM_CLASSES, FACTS, KSDD_FOLDS, STEEL_POSITIVES
from mffpa_ext.data.images import FULL_DEPTH
from mffpa_ext.errors import UserError
from mffpa_ext.fields import flag

STRIDE = 8  # the mask logits lie on a grid of 1/8 of the image


@dataclass(frozen=True)
class DataConfig:
    """Data.

    None means: what the data set's row in `facts.FACTS` says; `resolve` fills it in. Of one's own folder the images
    decide `image_size` and `channels`, see `loading.plan_splits`.

    The seed is no field: the run's own seed is handed to `loading.load_splits`.
    """

    dataset: str = flag("synthetic", "data set", choices=tuple(FACTS))
    data_root: str | None = flag(
        None, "folder of the data set as its owner publishes it, or of your own images (not for synthetic)")
    image_size: tuple[int, int] | None = flag(
        None, "height and width in pixels, multiples of 8; default: the data set's, or by the images of the folder")
    on_bad_image: str = flag(
        "error", "images that cannot be used: end with a list of them, or leave them out and list them",
        choices=POLICIES)
    dagm_class: int = flag(1, "DAGM: class, 1 to 10", choices=tuple(range(1, DAGM_CLASSES + 1)))
    resplit: bool = flag(
        False, "DAGM: put the images that are there together and split them half and half by the seed (unofficial)")
    fold: int = flag(0, "KSDD: cross-validation fold, 0 to 2", choices=tuple(range(KSDD_FOLDS)))
    steel_positives: int | None = flag(
        None, f"STEEL: number of defective training images (MixSup: 300, 750, 1500, 3000); default: {STEEL_POSITIVES}, "
              f"or the split file's")
    split_file: str | None = flag(
        None, "split published with MixSup (.pyb), for folder a CSV of name,part such as a run's split.csv; "
        "default: the official or a seeded one")
    num_segmented: str | int = flag(
        "all", "number of defective training images that have a pixel mask (KSDD: of folders), or 'all'")
    val_fraction: float | None = flag(
        None, "part of the training images set aside for validation, 0 to below 1; default: the data set's")
    validate_on: str = flag(
        "val", "images that choose the best epoch; 'test' is optimistic by design", choices=("val", "test"))
    dilate: int | None = flag(None, "side of the square that dilates masks, in pixels of the mask; 1: no dilation")
    distance_weight: float | None = flag(None, "w: weight of the pixel farthest inside a defect")
    distance_power: float | None = flag(None, "p: power of the distance inside a defect")
    distance_transform: str = flag(
        "whole", "distances are divided by the largest of the whole mask or of each connected component",
        choices=("whole", "component"))
    good_folder: str = flag("good", "folder: sub-folders of defect-free images, separated by commas")
    defect_folder: str = flag("defect", "folder: sub-folders of defective images, separated by commas")
    mask_folder: str = flag("masks", "folder: sub-folder of pixel masks, which have the names of their images")
    mask_threshold: int = flag(
        128, "folder: gray value of a mask, 1 to 255, from which on a pixel is defective; class numbers count above 0")
    channels: str | int = flag(
        "auto", "folder: 1 reads gray, 3 colour; auto: 1 where all images are gray", choices=("auto", 1, 3))
    bit_depth: int = flag(FULL_DEPTH, "folder: bits of 16-bit files that the camera uses, 8 to 16")
    test_fraction: float = flag(0.2, "folder: part of all images set aside for the test, 0 to below 1; 0: no test")
    cache_memory: float = flag(4.0, "memory for decoded images, in GiB; what does not fit is decoded at each use")
    workers: int = flag(0, "processes that load batches; 0: the training process itself")
    synthetic_train: int = flag(400, "synthetic: number of training images, half of them defective")
    synthetic_test: int = flag(300, "synthetic: number of test images, half of them defective")


# Fields that mean nothing for another data set.
OF_ONE_DATASET = {"dagm_class": "dagm", "resplit": "dagm", "fold": "ksdd", "steel_positives": "steel",
                  "synthetic_train": "synthetic", "synthetic_test": "synthetic",
                  "good_folder": "folder", "defect_folder": "folder", "mask_folder": "folder",
                  "mask_threshold": "folder", "channels": "folder", "bit_depth": "folder", "test_fraction": "folder"}
_DEFAULTS = {field.name: field.default for field in fields(DataConfig)}


def resolve(config: DataConfig) -> DataConfig:
    """Returns the config without a None that a data set's facts answer. Raises UserError for a setting out of range."""
    facts = FACTS.get(config.dataset)
    if facts is None:
        raise UserError(f"--dataset: expected one of {', '.join(FACTS)}, got {config.dataset!r}")
    if facts.needs_root and config.data_root is None:
        raise UserError(f"--data-root: {config.dataset} needs the folder of {facts.title}; none was given")
    if config.data_root is not None and not facts.needs_root:
        # Else who forgets --dataset trains on synthetic images and takes them for their own.
        with_folder = " or ".join(name for name, row in FACTS.items() if row.needs_root)
        raise UserError(f"--data-root {config.data_root}: the {config.dataset} data set reads no folder: "
                        f"say with --dataset {with_folder} what the folder holds, or leave it out")

    def default(value: Any, fact: Any) -> Any:
        return fact if value is None else value

    resolved = replace(
        config,
        image_size=_image_size(default(config.image_size, facts.image_size)),
        num_segmented=_num_segmented(config.num_segmented),
        # With --validate-on test no image needs setting aside.
        val_fraction=default(config.val_fraction, 0.0 if config.validate_on == "test" else facts.val_fraction),
        dilate=default(config.dilate, facts.dilate),
        distance_weight=default(config.distance_weight, facts.distance_weight),
        distance_power=default(config.distance_power, facts.distance_power),
    )
    if config.dataset == "steel" and config.split_file is None:
        resolved = replace(resolved, steel_positives=default(config.steel_positives, STEEL_POSITIVES))
    _check_ranges(resolved)
    return resolved


def _image_size(size: Any) -> tuple[int, int] | None:
    if size is None:  # the images decide
        return None
    shown = "x".join(map(str, size)) if isinstance(size, (tuple, list)) else repr(size)
    problem = f"--image-size: expected height x width, multiples of {STRIDE} and above 0, got {shown}"
    try:
        height, width = (int(side) for side in size)
    except (TypeError, ValueError):
        raise UserError(problem) from None
    if min(height, width) <= 0 or height % STRIDE or width % STRIDE:
        nearest = "x".join(str(max(STRIDE, round(side / STRIDE) * STRIDE)) for side in (height, width))
        raise UserError(f"{problem}; nearest: {nearest}")
    return height, width


def _num_segmented(value: str | int) -> str | int:
    if value == "all":
        return "all"
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0 or isinstance(value, (bool, float)):
        raise UserError(f"--num-segmented: expected a number from 0 or 'all', got {value!r}")
    return number


def _check_ranges(config: DataConfig) -> None:
    expectations = (
        ("dagm_class", 1 <= config.dagm_class <= DAGM_CLASSES, f"1 to {DAGM_CLASSES}"),
        ("fold", 0 <= config.fold < KSDD_FOLDS, f"0 to {KSDD_FOLDS - 1}"),
        ("steel_positives", config.steel_positives is None or config.steel_positives >= 1, "1 or more"),
        ("val_fraction", 0 <= config.val_fraction < 1, "0 to below 1"),
        ("validate_on", config.validate_on in ("val", "test"), "val or test"),
        ("dilate", config.dilate >= 1, "1 (no dilation) or more"),
        ("distance_weight", config.distance_weight >= 0, "0 or more"),
        ("distance_power", config.distance_power >= 0, "0 or more"),
        ("distance_transform", config.distance_transform in ("whole", "component"), "whole or component"),
        ("on_bad_image", config.on_bad_image in POLICIES, " or ".join(POLICIES)),
        ("mask_threshold", 1 <= config.mask_threshold <= 255, "1 to 255"),
        ("channels", config.channels in ("auto", 1, 3), "auto, 1 or 3"),
        ("bit_depth", 8 <= config.bit_depth <= FULL_DEPTH, f"8 to {FULL_DEPTH}"),
        ("test_fraction", 0 <= config.test_fraction < 1, "0 to below 1"),
        ("cache_memory", config.cache_memory >= 0, "0 or more"),
        ("workers", config.workers >= 0, "0 or more"),
        ("synthetic_train", config.synthetic_train >= 4, "4 or more"),
        ("synthetic_test", config.synthetic_test >= 2, "2 or more"),
    )
    for name, holds, expected in expectations:
        if not holds:
            raise UserError(f"--{name.replace('_', '-')}: expected {expected}, got {getattr(config, name)!r}")
    if config.validate_on == "test" and config.val_fraction > 0:
        raise UserError("--validate-on test and --val-fraction above 0 exclude each other: give one of them")
    if config.val_fraction > 0 and FACTS[config.dataset].has_validation:
        raise UserError(f"--val-fraction: {config.dataset} has a validation list of its own: leave it out")
    for name, dataset in OF_ONE_DATASET.items():
        # Else a fold or a class that changes nothing is taken for one that did. A default given in words is harmless.
        if config.dataset != dataset and getattr(config, name) != _DEFAULTS[name]:
            raise UserError(f"--{name.replace('_', '-')} is for --dataset {dataset}, not for {config.dataset}: "
                            f"leave it out")
    if config.split_file is not None and config.dataset == "synthetic":
        raise UserError("--split-file: the synthetic data set has no split files: leave it out")
    if config.split_file is not None and config.resplit:
        raise UserError("--split-file and --resplit exclude each other: give one of them")
