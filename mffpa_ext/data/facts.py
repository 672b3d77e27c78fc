"""The defaults behind every setting that is left out, by data set. What lies on disk stands in `published`.

Sizes, dilation and distance weights are the paper's (MFFPA) and MixSup's (Božič et al. 2021) protocol; the synthetic
set's are our own. A new data set is a row here and a module in `loading.DATASETS`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetFacts:
    """Defaults of one data set.

    image_size: H×W in pixels. image_size, channels: None where the images themselves decide. val_fraction: 0 where no
    training image is set aside. has_validation: a validation list is published. num_segmented: the N of the papers'
    tables; with a split file, and there alone, one above the defective images means all of them.
    """

    title: str
    image_size: tuple[int, int] | None
    channels: int | None
    dilate: int
    distance_weight: float
    distance_power: float
    val_fraction: float
    needs_root: bool = True
    has_validation: bool = False
    num_segmented: tuple[int, ...] = ()


FACTS: dict[str, DatasetFacts] = {
    "synthetic": DatasetFacts("synthetic defects", (96, 96), 1, 7, 10.0, 1.0, 0.2, needs_root=False),
    "dagm": DatasetFacts("DAGM 2007", (512, 512), 1, 7, 10.0, 1.0, 0.0,
                         num_segmented=(0, 5, 15, 45, 1000)),
    "ksdd": DatasetFacts("KolektorSDD", (1408, 512), 1, 7, 1.0, 2.0, 0.0, num_segmented=(0, 5, 10, 15, 20, 33)),
    "ksdd2": DatasetFacts("KolektorSDD2", (640, 232), 3, 15, 3.0, 2.0, 0.0, num_segmented=(0, 16, 53, 126, 246)),
    "steel": DatasetFacts("Severstal steel", (256, 1600), 1, 1, 1.0, 2.0, 0.0, has_validation=True,
                          num_segmented=(0, 10, 50, 150, 300, 750)),
    # DAGM's, whose images the folder was tried with
    "folder": DatasetFacts("your own images", None, None, 7, 10.0, 1.0, 0.2),
}

DAGM_CLASSES = 10
KSDD_FOLDS = 3
STEEL_POSITIVES = 3000  # the paper does not say how many it trained on
