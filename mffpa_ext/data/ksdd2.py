"""KolektorSDD2: `train/10000.png` with `train/10000_GT.png`, `test/20000.png` with `test/20000_GT.png`."""

from pathlib import Path

from mffpa_ext.data.completeness import notes_on_counts
from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.inventory import MISSING, Inventory
from mffpa_ext.data.pairs import Pairs, find_pairs, read_labels
from mffpa_ext.data.published import KSDD2_COUNTS, KSDD2_NUMBERS, KSDD2_SKIPPED
from mffpa_ext.data.split_files import read_split, select
from mffpa_ext.data.splits import Layout
from mffpa_ext.data.types import Record
from mffpa_ext.errors import UserError


def build(config: DataConfig, seed: int, test_only: bool = False) -> Layout:
    """Records of the published train and test folders; a split file says which training images have their mask.

    test_only: the train folder is not looked at. Without a split file, other counts than the published are unofficial.
    """
    root = Path(config.data_root)
    parts = ("test",) if test_only else ("train", "test")
    records = {part: read_part(root / part) for part in parts}
    if config.split_file is not None:
        listings = dict(zip(("train", "test"), read_split(Path(config.split_file), "ksdd2"), strict=True))
        records = {part: select(found, listings[part], root / part, config.split_file, ".png")
                   for part, found in records.items()}
        return Layout(records.get("train", []), records["test"], official=True, flags_fixed=True)
    notes = notes_on_counts("ksdd2", records, KSDD2_COUNTS)
    return Layout(records.get("train", []), records["test"], official=not notes, notes=notes)


def read_part(folder: Path) -> list[Record]:
    """Records of the `train` or `test` folder. An image is defective where its mask marks a pixel.

    Raises UserError where there is no image, an image has no mask file, or a mask no image.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: expected the {folder.name} folder of KolektorSDD2, found no such folder: "
                        f"--data-root is the folder that holds train and test")
    pairs = _pairs(folder)
    pairs.require_complete("KolektorSDD2", ".png", "_GT.png")
    if not pairs.images:
        raise UserError(f"{folder}: expected images such as {KSDD2_NUMBERS[folder.name][0]}.png, found none")
    masks = [pairs.masks[stem] for stem in pairs.images]
    return [Record(f"{folder.name}/{image.name}", image, mask, label, annotated=True)
            for image, mask, label in zip(pairs.images.values(), masks, read_labels(masks), strict=True)]


def inventory(root: Path) -> Inventory:
    """What is there of the two folders. Raises UserError where there is none."""
    listed = Inventory(root, dict(KSDD2_COUNTS))
    if not any((root / part).is_dir() for part in KSDD2_COUNTS):
        raise UserError(f"{root}: expected the folders train and test of KolektorSDD2, found none: "
                        f"--data-root is the folder that holds them")
    for part, numbers in KSDD2_NUMBERS.items():
        folder = root / part
        if not folder.is_dir():
            listed.report(folder, MISSING, "published, found no such folder")
            continue
        listed.add_pairs(part, folder, _pairs(folder), [str(number) for number in numbers], ".png", "_GT.png")
        copies = [path.name for path in sorted(folder.iterdir()) if path.stem in KSDD2_SKIPPED]
        if copies:
            listed.notes.append(f"{part}: {', '.join(copies)} {'are' if len(copies) > 1 else 'is'} in the published "
                                f"archive by mistake and left out everywhere")
    return listed


def _pairs(folder: Path) -> Pairs:
    return find_pairs(folder, "_GT", skipped=KSDD2_SKIPPED)
