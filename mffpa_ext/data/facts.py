"""What is published about each data set, as data: the defaults behind every setting that is left out.

Sizes, dilation and distance weights are the paper's (MFFPA) and MixSup's (Božič et al. 2021) protocol; the synthetic
set's are our own. A new data set is a row here and a builder in `loading.BUILDERS`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetFacts:
    """Defaults of one data set. `image_size` is H×W in pixels; `val_fraction` 0: no validation part is published.

    image_size, channels: None where the images themselves decide.
    """

    title: str
    image_size: tuple[int, int] | None
    channels: int | None
    dilate: int
    distance_weight: float
    distance_power: float
    val_fraction: float
    needs_root: bool = True


FACTS: dict[str, DatasetFacts] = {
    "synthetic": DatasetFacts("synthetic defects", (96, 96), 1, 7, 10.0, 1.0, 0.2, needs_root=False),
    "dagm": DatasetFacts("DAGM 2007", (512, 512), 1, 7, 10.0, 1.0, 0.0),
    "ksdd": DatasetFacts("KolektorSDD", (1408, 512), 1, 7, 1.0, 2.0, 0.0),
    # DAGM's, whose images the folder was tried with
    "folder": DatasetFacts("your own images", None, None, 7, 10.0, 1.0, 0.2),
}

DAGM_CLASSES = 10
KSDD_FOLDS = 3

# Left out wherever it is present: MixSup's copy lacks it, so do the published 399 images.
KSDD_SKIPPED = frozenset({"kos21_Part7"})

# Folders whose images equal each other byte for byte: the second is the first, published twice.
KSDD_TWINS: tuple[tuple[str, str], ...] = (("kos01", "kos26"), ("kos27", "kos34"))
