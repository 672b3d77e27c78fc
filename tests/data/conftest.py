"""Small data sets in their published layouts, written by the tests; real ones through MFFPA_DATA."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mffpa_ext.data import dagm, ksdd, ksdd2, steel
from mffpa_ext.data.published import Counts


def write_gray(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def noise(seed: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def spot(size: tuple[int, int], value: int = 255) -> np.ndarray:
    mask = np.zeros(size, dtype=np.uint8)
    mask[size[0] // 3: size[0] // 2, size[1] // 3: size[1] // 2] = value
    return mask


def write_dagm_half(folder: Path, defective: int, good: int, size: tuple[int, int] = (24, 32), first: int = 1) -> None:
    (folder / "Label").mkdir(parents=True, exist_ok=True)
    lines = ["1"]
    for number in range(first, first + defective + good):
        write_gray(folder / f"{number:04d}.PNG", noise(number, size))
        if number < first + defective:
            write_gray(folder / "Label" / f"{number:04d}_label.PNG", spot(size))
            lines.append(f"{number}\t1\t{number:04d}.PNG\t0\t{number:04d}_label.PNG")
        else:
            lines.append(f"{number}\t0\t{number:04d}.PNG\t0\t0\t")
    (folder / "Label" / "Labels.txt").write_text("\r\n".join(lines))


def write_ksdd_folder(folder: Path, parts: int = 3, defective: int = 1, size: tuple[int, int] = (40, 24)) -> None:
    for part in range(parts):
        seed = int(folder.name[3:]) * 10 + part
        write_gray(folder / f"Part{part}.jpg", noise(seed, size))
        mask = Image.fromarray(spot(size, 1) if part < defective else np.zeros(size, np.uint8))
        if part < defective:  # the published masks of defects are palettes, drawn with index 1 or 2
            mask = mask.convert("P")
            mask.putpalette([0, 0, 0, 255, 255, 255, 0, 0, 0])
        mask.save(folder / f"Part{part}_label.bmp")


@pytest.fixture
def dagm_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Class 1 with 5 defective and 8 good images in Train, 3 and 4 in Test, 24×32 pixels; published like this."""
    monkeypatch.setattr(dagm, "dagm_counts", lambda _: {"Train": Counts(5, 8), "Test": Counts(3, 4)})
    root = tmp_path / "DAGM"
    write_dagm_half(root / "Class1" / "Train", 5, 8, first=101)
    write_dagm_half(root / "Class1" / "Test", 3, 4)
    return root


@pytest.fixture
def ksdd_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nine folders of three parts, one of them defective, 40×24 pixels; kos01 and kos26 are twins; published like this.
    """
    monkeypatch.setattr(ksdd, "KSDD_COUNTS", Counts(9, 18))
    root = tmp_path / "KolektorSDD"
    for number in (1, 2, 3, 4, 5, 6, 7, 8, 26):
        folder = root / f"kos{number:02d}"
        folder.mkdir(parents=True)
        write_ksdd_folder(folder)
    for path in (root / "kos01").iterdir():
        (root / "kos26" / path.name).write_bytes(path.read_bytes())
    return root


@pytest.fixture
def ksdd_split(tmp_path: Path) -> Path:
    """A split file of the published structure for `ksdd_root`: two folders annotated, twins on both sides of fold 0."""
    names = [f"kos{number:02d}" for number in (1, 2, 3, 4, 5, 6, 7, 8, 26)]
    tests = [names[:3], names[3:6], names[6:]]
    train = [[(name, i < 2) for i, name in enumerate(n for n in names if n not in test)] for test in tests]
    path = tmp_path / "split_6_2.pyb"
    path.write_bytes(pickle.dumps([train, [[(name, True) for name in test] for test in tests]]))
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real images."""
    root = os.environ.get("MFFPA_DATA")
    if not root:
        pytest.skip("set MFFPA_DATA to the folder that holds KolektorSDD, DAGM and mixsup_splits")
    return Path(root)


def real_folder(root: Path, *parts: str) -> Path:
    """A folder of the real data; a test that needs it is skipped where it is missing."""
    folder = root.joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    return folder


def write_ksdd2_part(folder: Path, first: int, defective: int, good: int, size: tuple[int, int] = (40, 24)) -> None:
    folder.mkdir(parents=True)
    for number in range(first, first + defective + good):
        colours = np.stack([noise(number + channel, size) for channel in range(3)], axis=2)
        Image.fromarray(colours).save(folder / f"{number}.png")
        mask = spot(size) if number < first + defective else np.zeros(size, np.uint8)
        Image.fromarray(mask).save(folder / f"{number}_GT.png")


def run_lengths(mask: np.ndarray) -> str:
    """A mask in Severstal's run-length form, written independently of the decoder: pixel by pixel."""
    runs: list[list[int]] = []
    for position, value in enumerate(mask.flatten(order="F").tolist(), start=1):
        if value and runs and sum(runs[-1]) == position:
            runs[-1][1] += 1
        elif value:
            runs.append([position, 1])
    return " ".join(f"{start} {length}" for start, length in runs)


STEEL_SIZE = (256, 1600)


def steel_spot(number: int) -> np.ndarray:
    mask = np.zeros(STEEL_SIZE, np.uint8)
    mask[20:90, 100 * number % 1500: 100 * number % 1500 + 60] = 1
    return mask


def write_steel(root: Path, classes: list[tuple[int, ...]], good: int) -> None:
    """Images d0, d1, … with one row per class of the defects, and g0, g1, … without rows."""
    rows = ["ImageId,ClassId,EncodedPixels"]
    (root / "train_images").mkdir(parents=True)
    for index in range(len(classes) + good):
        defective = index < len(classes)
        name = f"d{index}.jpg" if defective else f"g{index - len(classes)}.jpg"
        gray = np.full(STEEL_SIZE, 100, np.uint8) + np.uint8(80 * defective) * steel_spot(index)
        Image.fromarray(gray).convert("RGB").save(root / "train_images" / name)  # as published
        rows += [f"{name},{number},{run_lengths(steel_spot(index + position))}"
                 for position, number in enumerate(classes[index] if defective else ())]
    (root / "train.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def ksdd2_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """5 defective and 8 good images for training, 3 and 4 for the test, 40×24 pixels; published like this."""
    monkeypatch.setattr(ksdd2, "KSDD2_COUNTS", {"train": Counts(5, 8), "test": Counts(3, 4)})
    root = tmp_path / "KolektorSDD2"
    write_ksdd2_part(root / "train", 10000, 5, 8)
    write_ksdd2_part(root / "test", 20000, 3, 4)
    return root


@pytest.fixture
def steel_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """12 defective images, of class 3 alone but for d2 (classes 1 and 3) and d5 (class 4), and 14 good ones; published
    like this."""
    monkeypatch.setattr(steel, "STEEL_COUNTS", Counts(12, 14))
    root = tmp_path / "severstal"
    write_steel(root, [{2: (1, 3), 5: (4,)}.get(index, (3,)) for index in range(12)], 14)
    return root


@pytest.fixture
def small_steel_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 + 4 images for the test, 2 + 3 for validation, instead of the published numbers."""
    monkeypatch.setattr(steel, "STEEL_TEST", Counts(3, 4))
    monkeypatch.setattr(steel, "STEEL_VALIDATION", Counts(2, 3))
