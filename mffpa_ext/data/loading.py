"""One entry to all data sets: config and seed → train, validation and test."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mffpa_ext.data import dagm, ksdd, synthetic
from mffpa_ext.data.config import DataConfig, resolve
from mffpa_ext.data.dataset import DataPart, DataSplits, DefectDataset, PixelBudget
from mffpa_ext.data.facts import FACTS
from mffpa_ext.data.splits import Layout, carve_validation, check_fixed_flags, choose_annotated
from mffpa_ext.data.targets import TargetSpec
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError

# (resolved config, seed, test_only): with `test_only` the training images stay out where the test images are known
# without them.
BUILDERS: dict[str, Callable[[DataConfig, int, bool], Layout]] = {
    "synthetic": synthetic.build,
    "dagm": dagm.build,
    "ksdd": ksdd.build,
}


def load_splits(config: DataConfig, seed: int, progress: bool = True) -> DataSplits:
    """Loads a data set and checks every file of it.

    seed: drives every split and choice that the data set's owner did not publish, and the synthetic training images.
    progress: show a bar on standard error. Raises UserError for whatever is wrong with the settings or the files.
    """
    config, layout = _lay_out(config, seed)
    notes = list(layout.notes)
    if layout.flags_fixed:
        notes += check_fixed_flags(
            layout.train, config.num_segmented, Path(config.split_file).name, layout.by_folder)
    # Before anything is carved or decoded: what is missing is told of the images as they lie there.
    _need_both_kinds(layout.train, "training", config)
    _need_both_kinds(layout.test, "test", config)
    train, validation = _carve(layout, config, seed)
    if not layout.flags_fixed:
        # After the carving, so that N masks are N masks to train on.
        train = choose_annotated(train, config.num_segmented, seed, layout.by_folder)

    channels, budget = FACTS[config.dataset].channels, PixelBudget(config.cache_memory)
    train_set = _dataset(train, "training", config, channels, budget, progress)
    validation_set = _dataset(validation, "validation", config, channels, budget, progress) if validation else None
    test_set = _dataset(layout.test, "test", config, channels, budget, progress)
    if config.validate_on == "test":
        validation_set = test_set
    notes += _validation_notes(layout, validation, config, seed)
    return DataSplits(train_set, validation_set, test_set, channels, config.image_size, layout.official, notes)


def load_part(config: DataConfig, seed: int, part: str, channels: int | None = None, progress: bool = True) -> DataPart:
    """Loads the test or the validation part as `load_splits` would, and reads no image of another part.

    part: "test" or "validation". channels: 1 or 3, None: the data set's. The published test images need no training
    images beside them; a split by the seed does, as it is drawn from all. Raises UserError as `load_splits` does.
    """
    on_test = part == "test" or config.validate_on == "test"
    config, layout = _lay_out(config, seed, test_only=on_test)
    channels = channels or FACTS[config.dataset].channels
    if on_test:
        _need_both_kinds(layout.test, "test", config)
        records, validation = layout.test, []
    else:
        _need_both_kinds(layout.train, "training", config)
        records = validation = _carve(layout, config, seed)[1]
    notes = layout.notes + _validation_notes(layout, validation, config, seed)
    if not records:
        return DataPart(None, layout.official, notes)
    budget = PixelBudget(config.cache_memory)
    dataset = _dataset(records, "test" if on_test else part, config, channels, budget, progress)
    return DataPart(dataset, layout.official, notes)


def _lay_out(config: DataConfig, seed: int, test_only: bool = False) -> tuple[DataConfig, Layout]:
    """The resolved config and the data set's published parts."""
    config = resolve(config)
    if config.data_root is not None and FACTS[config.dataset].needs_root and not Path(config.data_root).is_dir():
        raise UserError(f"--data-root: expected the folder of {FACTS[config.dataset].title}, "
                        f"found no folder {config.data_root}")
    return config, BUILDERS[config.dataset](config, seed, test_only)


def _carve(layout: Layout, config: DataConfig, seed: int) -> tuple[list[Record], list[Record]]:
    train, validation = carve_validation(layout.train, config.val_fraction, seed)
    if validation:
        # Items that stay together may take all images of a kind to one side.
        _need_both_kinds(train, "remaining training", config)
    return train, validation


def _dataset(records: list[Record], part: str, config: DataConfig, channels: int, budget: PixelBudget,
             progress: bool) -> DefectDataset:
    if part == "test":
        # Outside training masks only serve evaluation, and all that are there may.
        records = [replace(record, annotated=True) for record in records]
    spec = TargetSpec.from_config(config)
    return DefectDataset(records, config.image_size, channels, spec, budget, f"{part} images", progress)


def _validation_notes(layout: Layout, validation: list[Record], config: DataConfig, seed: int) -> list[str]:
    if config.validate_on == "test":
        return ["validated on the test images: the chosen epoch and threshold, and so the results, are optimistic"]
    if validation:
        return [f"validation: {len(validation)} of {len(layout.train)} training images set aside by seed {seed}"]
    return []


_REMEDIES = {
    "training": "the network learns from both: add images of the missing kind, or choose another part of the data",
    "remaining training": "the network learns from both: give another --val-fraction or --seed",
    "validation": "AP and AUC compare both: give another --val-fraction or --seed, or --val-fraction 0",
    "test": "AP and AUC compare both: add images of the missing kind, or choose another part of the data",
}


def _need_both_kinds(records: list[Record], part: str, config: DataConfig) -> None:
    """Raises UserError for a part in which one kind of image is missing."""
    defective = sum(record.label for record in records)
    if 0 < defective < len(records):
        return
    where = f" in {config.data_root}" if config.data_root else ""
    raise UserError(f"{part} images{where}: expected defective and defect-free ones, found {defective} defective and "
                    f"{len(records) - defective} defect-free: {_REMEDIES[part]}")
