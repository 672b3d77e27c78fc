"""What the owners of the data sets published, as data: parts, counts, numbering, sizes, and files that are there by
mistake.

Counted in the published files and in MixSup's split files; where the MFFPA paper says otherwise, a comment says so.
"""

from typing import NamedTuple

Size = tuple[int, int]


class Counts(NamedTuple):
    """Numbers of images of the two kinds."""

    defective: int
    good: int


# KolektorSDD. Every folder holds Part0 to Part7, but for one part that is in some copies and not in the published 399.
KSDD_FOLDERS = tuple(f"kos{number:02d}" for number in range(1, 51))
KSDD_PARTS = tuple(range(8))
KSDD_SKIPPED = frozenset({"kos21_Part7"})
KSDD_COUNTS = Counts(52, 347)
KSDD_SMALLEST, KSDD_LARGEST = (1235, 500), (1285, 500)

# Folders whose images equal each other byte for byte: the second is the first, published twice.
KSDD_TWINS: tuple[tuple[str, str], ...] = (("kos01", "kos26"), ("kos27", "kos34"))

# KolektorSDD2. Its images are about 630×230, each of a size of its own.
KSDD2_NUMBERS = {"train": range(10000, 12331), "test": range(20000, 21004)}
KSDD2_COUNTS = {"train": Counts(246, 2085), "test": Counts(110, 894)}
KSDD2_SKIPPED = frozenset({"10301 (copy)", "10301_GT (copy)"})  # in the published archive, byte for byte 10301

# DAGM 2007. Images are numbered through from Test to Train. The paper speaks of 3450 images, which is one half of
# classes 1 to 6, and of 1600x256 pixels; the published images are 512x512.
DAGM_SIZE: Size = (512, 512)
DAGM_TEN = tuple(range(1, 11))
DAGM_SIX = tuple(range(1, 7))  # the classes of the competition's development set, published alone as well
_DAGM_TRAIN_DEFECTIVE = {1: 79, 2: 66, 3: 66, 4: 82, 5: 70, 6: 83, 7: 150, 8: 150, 9: 150, 10: 150}


def dagm_counts(number: int) -> dict[str, Counts]:
    """Half → counts of class `number`, 1 to 10."""
    images, defective = (575, 150) if number in DAGM_SIX else (1150, 300)
    train = _DAGM_TRAIN_DEFECTIVE[number]
    test = defective - train
    return {"Train": Counts(train, images - train), "Test": Counts(test, images - test)}


def dagm_numbers(number: int) -> dict[str, range]:
    """Half → numbers of the images of class `number`, 1 to 10."""
    images = 575 if number in DAGM_SIX else 1150
    return {"Train": range(images + 1, 2 * images + 1), "Test": range(1, images + 1)}


# Severstal steel, `train_images` (the others have no labels). The paper says 7095 + 5473: 7095 are the rows of
# train.csv, of which an image may have several.
STEEL_SIZE: Size = (256, 1600)
STEEL_COUNTS = Counts(6666, 5902)
STEEL_CLASSES = (1, 2, 3, 4)
# MixSup's lists hold all 5902 good images and 4759 defective ones: as many as have defects of class 3 alone, the most
# common kind. The training list has 300, 750, 1500 or 3000 of these.
STEEL_DEFECT_CLASS = 3
STEEL_TEST, STEEL_VALIDATION = Counts(1200, 1200), Counts(559, 559)
STEEL_TRAIN_GOOD = 4143
STEEL_TRAIN_DEFECTIVE = (300, 750, 1500, 3000)
