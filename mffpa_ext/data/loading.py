"""One entry to all data sets: config and seed → train, validation and test."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from mffpa_ext.data import dagm, folder, ksdd, ksdd2, steel, synthetic
from mffpa_ext.data.bad_images import BadImage, bad_images_error, skipped_notes
from mffpa_ext.data.config import DataConfig, resolve
from mffpa_ext.data.dataset import DataPart, DataSplits, DefectDataset, PixelBudget
from mffpa_ext.data.facts import FACTS
from mffpa_ext.data.splits import Layout, carve_validation, check_fixed_flags, choose_annotated, notes_on_carved_masks
from mffpa_ext.data.targets import TargetSpec
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError

# A data set is a module with
#   build(resolved config, seed, test_only) -> Layout: with `test_only` the training images stay out where the test
#     images are known without them;
#   inventory(root) -> Inventory, where counts were published: what `mffpa datasets check` compares with them.
DATASETS: dict[str, ModuleType] = {
    "synthetic": synthetic,
    "dagm": dagm,
    "ksdd": ksdd,
    "ksdd2": ksdd2,
    "steel": steel,
    "folder": folder,
}


@dataclass(frozen=True)
class Plan:
    """Which images train, validate and test, and how they are read, before any is decoded.

    config: resolved; of one's own folder with what its images decide. channels: 1 or 3. validation, test: empty where
    there is no such part. found: what lies in the folder, in lines to be shown.
    """

    config: DataConfig
    channels: int
    train: list[Record]
    validation: list[Record]
    test: list[Record]
    official: bool
    notes: list[str]
    found: list[str]

    @property
    def parts(self) -> dict[str, str] | None:
        """The part of each image by its name, "train", "val" or "test"; None where others than the user decide it."""
        if self.config.dataset != "folder":
            return None
        parts = {"train": self.train, "val": self.validation, "test": self.test}
        return {record.name: part for part, records in parts.items() for record in records}

    @property
    def held_out(self) -> dict[str, str]:
        """Of the images that are not trained on, by part, "validation" or "test": see `hash_names`."""
        return {"validation": hash_names(self.validation), "test": hash_names(self.test)}


def load_splits(config: DataConfig, seed: int, progress: bool = True) -> DataSplits:
    """Loads a data set and checks every file of it.

    seed: drives every split and choice that the data set's owner did not publish, and the synthetic training images.
    progress: show a bar on standard error. Raises UserError for whatever is wrong with the settings or the files.
    """
    return load_plan(plan_splits(config, seed), progress)


def plan_splits(config: DataConfig, seed: int, parts: Mapping[str, str] | None = None) -> Plan:
    """The parts of a data set, from the names of its files.

    parts: those of an earlier `Plan`, which are taken instead of what seed or split file say. Raises UserError.
    """
    config, layout = _lay_out(config, seed, parts=parts)
    notes = list(layout.notes)
    if layout.flags_fixed:
        notes += check_fixed_flags(
            layout.train, config.num_segmented, Path(config.split_file).name, layout.by_folder)
    # Before anything is carved or decoded: what is missing is told of the images as they lie there.
    _need_both_kinds(layout.train, "training", config)
    if layout.test or config.dataset != "folder":
        _need_both_kinds(layout.test, "test", config)
    train, validation = _carve(layout, config, seed)
    if layout.flags_fixed:
        notes += notes_on_carved_masks(layout.train, train, layout.by_folder)
    else:
        # After the carving, so that N masks are N masks to train on.
        train = choose_annotated(train, config.num_segmented, seed, layout.by_folder)
        if config.num_segmented not in ("all", 0) and FACTS[config.dataset].num_segmented:
            unit = "folders" if layout.by_folder else "defective training images"
            notes.append(f"pixel masks: the {config.num_segmented} {unit} that have one were drawn by seed {seed}; "
                         f"those of the published results are in MixSup's split files, see --split-file")
    notes += _validation_notes(layout, validation, config, seed)
    channels = _channels(config)
    return Plan(config, channels, train, validation, layout.test, layout.official, notes, layout.found)


def load_plan(plan: Plan, progress: bool = True) -> DataSplits:
    """Reads and checks the images of a plan. Raises UserError as `load_splits` does."""
    config, budget = plan.config, PixelBudget(plan.config.cache_memory)
    loaded = {part: _dataset(records, part, config, plan.channels, budget, progress) if records else None
              for part, records in (("training", plan.train), ("validation", plan.validation), ("test", plan.test))}
    skipped, notes = _left_out(loaded.values(), config)
    for part, dataset in loaded.items():
        if dataset is not None:
            _need_usable(dataset, part, config)
    if config.validate_on == "test":
        loaded["validation"] = loaded["test"]
    return DataSplits(*loaded.values(), plan.channels, config.image_size, plan.official, plan.notes + notes, skipped)


def load_part(config: DataConfig, seed: int, part: str, channels: int | None = None, progress: bool = True,
              parts: Mapping[str, str] | None = None, held_out: Mapping[str, str] | None = None) -> DataPart:
    """Loads the test or the validation part as `load_splits` would, and reads no image of another part.

    part: "test" or "validation". channels: 1 or 3, None: the data set's. parts: as in `plan_splits`. held_out: of an
    earlier `Plan`, whose images these have to be. The published test images need no training images beside them; a
    split by the seed does, as it is drawn from all. Raises UserError as `load_splits` does.
    """
    on_test = part == "test" or config.validate_on == "test"
    config, layout = _lay_out(config, seed, test_only=on_test, parts=parts)
    channels = channels or _channels(config)
    if on_test:
        if layout.test or config.dataset != "folder":
            _need_both_kinds(layout.test, "test", config)
        records, validation = layout.test, []
    else:
        _need_both_kinds(layout.train, "training", config)
        records = validation = _carve(layout, config, seed)[1]
    if held_out is not None:
        _need_same_names(records, held_out.get("test" if on_test else part), "test" if on_test else part, config)
    notes = layout.notes + _validation_notes(layout, validation, config, seed)
    if not records:
        return DataPart(None, layout.official, notes)
    budget = PixelBudget(config.cache_memory)
    dataset = _dataset(records, "test" if on_test else part, config, channels, budget, progress)
    notes += _left_out([dataset], config)[1]
    _need_usable(dataset, "test" if on_test else part, config)
    return DataPart(dataset, layout.official, notes)


def _lay_out(config: DataConfig, seed: int, test_only: bool = False,
             parts: Mapping[str, str] | None = None) -> tuple[DataConfig, Layout]:
    """The data set's parts, and the config without anything open."""
    config = resolve(config)
    if config.data_root is not None and FACTS[config.dataset].needs_root and not Path(config.data_root).is_dir():
        raise UserError(f"--data-root: expected the folder of {FACTS[config.dataset].title}, "
                        f"found no folder {config.data_root}")
    # Of one's own folder the images of an earlier run's parts, which no other data set lets the user decide.
    given = () if parts is None or config.dataset != "folder" else (parts,)
    layout = DATASETS[config.dataset].build(config, seed, test_only, *given)
    if config.split_file is not None and config.dataset != "folder":  # which names its list itself
        layout.notes.insert(0, f"split: the lists of {Path(config.split_file).name}")
    elif layout.official and FACTS[config.dataset].num_segmented:
        layout.notes.insert(0, "split: train and test as published")
    return replace(config, **layout.settings), layout


def hash_names(records: Iterable[Record]) -> str:
    """sha256 of the names, whatever their order."""
    names = "\n".join(sorted(record.name for record in records))
    return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()


def _need_same_names(records: list[Record], expected: str | None, part: str, config: DataConfig) -> None:
    """Raises UserError where the split is drawn otherwise than at the training: its images may now be in this part."""
    if expected not in (None, hash_names(records)):
        # A split file excludes --resplit, and what --val-fraction takes is drawn from its list as well.
        other = ", or choose images yourself with --split-file" if part == "test" and not config.resplit else ""
        raise UserError(f"{config.data_root}: the {part} images are not those of the training, some may have been "
                        f"trained on: images or labels were added, removed or repaired since: undo that, or give "
                        f"--data-root a copy as it was then{other}")


def _channels(config: DataConfig) -> int:
    return FACTS[config.dataset].channels or config.channels


def _carve(layout: Layout, config: DataConfig, seed: int) -> tuple[list[Record], list[Record]]:
    if layout.validation is not None:
        train, validation = layout.train, [] if config.validate_on == "test" else layout.validation
    else:
        train, validation = carve_validation(layout.train, config.val_fraction, seed)
    if validation:
        # Items that stay together may take all images of a kind to one side.
        _need_both_kinds(train, "remaining training", config)
    return train, validation


def _dataset(records: list[Record], part: str, config: DataConfig, channels: int, budget: PixelBudget,
             progress: bool) -> DefectDataset:
    if part == "test":
        # Outside training masks only serve evaluation, and all that are there may.
        records = [replace(record, annotated=record.has_mask) for record in records]
    spec = TargetSpec.from_config(config)
    return DefectDataset(records, config.image_size, channels, spec, budget, f"{part} images", progress,
                         config.bit_depth, skip_bad=True)


def _left_out(datasets: Iterable[DefectDataset | None], config: DataConfig) -> tuple[list[BadImage], list[str]]:
    """The bad images of all parts together, and what is to be said of them, or the error that lists them."""
    datasets = [dataset for dataset in datasets if dataset is not None]
    bad = [image for dataset in datasets for image in dataset.bad]
    total = len(bad) + sum(len(dataset) for dataset in datasets)
    if bad and config.on_bad_image == "error":
        raise bad_images_error(bad, total)
    return bad, skipped_notes(bad, total)


def _validation_notes(layout: Layout, validation: list[Record], config: DataConfig, seed: int) -> list[str]:
    if config.validate_on == "test":
        return ["validated on the test images: the chosen epoch and threshold, and so the results, are optimistic"]
    if validation and layout.validation is None:
        return [f"validation: {len(validation)} of {len(layout.train)} training images set aside by seed {seed}"]
    return []


_REMEDIES = {
    "training": "the network learns from both: add images of the missing kind, or choose another part of the data",
    "remaining training": "the network learns from both: give another --val-fraction or --seed",
    "test": "AP and AUC compare both: add images of the missing kind, or choose another part of the data",
}


def _need_usable(dataset: DefectDataset, part: str, config: DataConfig) -> None:
    """Raises UserError where the bad images are those that a part cannot do without.

    Validation images of one kind choose no epoch, but a threshold.
    """
    if dataset.bad and (part != "validation" or not len(dataset)):
        _need_both_kinds(dataset.records, f"usable {part}", config)


def _need_both_kinds(records: list[Record], part: str, config: DataConfig) -> None:
    """Raises UserError for a part in which one kind of image is missing."""
    defective = sum(record.label for record in records)
    if 0 < defective < len(records):
        return
    where = f" in {config.data_root}" if config.data_root else ""
    raise UserError(f"{part} images{where}: expected defective and defect-free ones, found {defective} defective and "
                    f"{len(records) - defective} defect-free: "
                    f"{_REMEDIES.get(part, 'repair those that cannot be used')}")
