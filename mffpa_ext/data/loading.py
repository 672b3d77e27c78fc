"""One entry to all data sets: config and seed → train, validation and test."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mffpa_ext.data import dagm, ksdd, synthetic
from mffpa_ext.data.config import DataConfig, resolve
from mffpa_ext.data.dataset import DataSplits, DefectDataset, PixelBudget
from mffpa_ext.data.facts import FACTS
from mffpa_ext.data.splits import Layout, carve_validation, check_fixed_flags, choose_annotated
from mffpa_ext.data.targets import TargetSpec
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError

BUILDERS: dict[str, Callable[[DataConfig, int], Layout]] = {
    "synthetic": synthetic.build,
    "dagm": dagm.build,
    "ksdd": ksdd.build,
}


def load_splits(config: DataConfig, seed: int, progress: bool = True) -> DataSplits:
    """Loads a data set and checks every file of it.

    seed: drives every split and choice that the data set's owner did not publish, and the synthetic training images.
    progress: show a bar on standard error. Raises UserError for whatever is wrong with the settings or the files.
    """
    config = resolve(config)
    if config.data_root is not None and FACTS[config.dataset].needs_root and not Path(config.data_root).is_dir():
        raise UserError(f"--data-root: expected the folder of {FACTS[config.dataset].title}, "
                        f"found no folder {config.data_root}")
    layout = BUILDERS[config.dataset](config, seed)
    notes = list(layout.notes)
    train, validation = layout.train, []
    if layout.flags_fixed:
        notes += check_fixed_flags(train, config.num_segmented, Path(config.split_file).name, layout.by_folder)
    # Before anything is carved or decoded: what is missing is told of the images as they lie there.
    _need_both_kinds(train, "training", config)
    _need_both_kinds(layout.test, "test", config)
    train, validation = carve_validation(train, config.val_fraction, seed)
    if validation:
        # Items that stay together may take all images of a kind to one side.
        _need_both_kinds(train, "remaining training", config)
        _need_both_kinds(validation, "validation", config)
    if not layout.flags_fixed:
        # After the carving, so that N masks are N masks to train on.
        train = choose_annotated(train, config.num_segmented, seed, layout.by_folder)
    if validation:
        notes.append(f"validation: {len(validation)} of {len(layout.train)} training images set aside by seed {seed}")

    facts, spec, budget = FACTS[config.dataset], TargetSpec.from_config(config), PixelBudget(config.cache_memory)

    def part(records: list[Record], title: str) -> DefectDataset:
        return DefectDataset(records, config.image_size, facts.channels, spec, budget, title, progress)

    train_set = part(train, "training images")
    validation_set = part(validation, "validation images") if validation else None
    # Outside training masks only serve evaluation, and all that are there may.
    test_set = part([_evaluated(record) for record in layout.test], "test images")
    if config.validate_on == "test":
        validation_set = test_set
        notes.append("validated on the test images: the chosen epoch and threshold, and so the results, are optimistic")
    return DataSplits(train_set, validation_set, test_set, facts.channels, config.image_size, layout.official, notes)


def _evaluated(record: Record) -> Record:
    return replace(record, annotated=True)


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
