"""Tables 1 to 9 of Tang et al. 2024 as data, values in percent as printed there.

`columns` are the networks that can be trained here, `others` what the paper quotes from other publications.
docs/paper.md says where these tables contradict each other or the text.
"""

from dataclasses import dataclass, field

from mffpa_ext.data.facts import FACTS


@dataclass(frozen=True)
class Column:
    """A network and the paper's values for it, one per N of the table.

    attention: weights of the pyramid, "ca" or "se"; None where the network has no pyramid.
    """

    title: str
    model: str
    attention: str | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class Table:
    """A grid of trainings: one data set, every N with every column.

    n: numbers of pixel masks. metric: "ap" or "auc". averages: the paper's own last row, by column title.
    others: method → values, None where the paper has none.
    """

    number: int
    title: str
    dataset: str
    metric: str
    n: tuple[int, ...]
    columns: tuple[Column, ...]
    others: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    averages: dict[str, float] = field(default_factory=dict)


def _mffpa(*values: float) -> tuple[Column]:
    return (Column("MFFPA", "mffpa", "ca", values),)


def _first(value: float, n: tuple[int, ...]) -> tuple[float | None, ...]:
    """Of a method that uses no masks: a value at N = 0 alone."""
    return (value,) + (None,) * (len(n) - 1)


_KSDD, _DAGM, _STEEL, _KSDD2 = (FACTS[name].num_segmented for name in ("ksdd", "dagm", "steel", "ksdd2"))

_BASELINE_AP = (74.51, 82.31, 89.45, 92.30, 94.02)
_BASELINE_AUC = (89.49, 92.13, 95.99, 96.54, 97.92)

TABLES = {
    table.number: table
    for table in (
        Table(
            1, "KolektorSDD, AP", "ksdd", "ap", _KSDD, _mffpa(94.72, 98.95, 99.02, 99.11, 100, 100),
            others={
                "F-AnoGAN": _first(39.4, _KSDD),
                "SDA": (None, None, None, None, None, 99.9),
                "Uninf student": _first(57.1, _KSDD),
                "MixSup": (93.4, 99.1, 99.4, 99.2, 99.9, 100),
                "MaMi": (98.5, 99.5, 99.7, 100, 100, 100),
            },
        ),
        Table(
            2, "DAGM 2007, AP", "dagm", "ap", _DAGM, _mffpa(82.9, 99.2, 100, 100, 100),
            others={
                "F-AnoGAN": _first(19.5, _DAGM),
                "Uninf student": _first(66.8, _DAGM),
                "MixSup": (74, 94.6, 100, 100, 100),
                "MaMi": (80.9, 100, None, None, None),
            },
        ),
        Table(
            3, "Severstal steel, AP", "steel", "ap", _STEEL, _mffpa(95.51, 96.32, 97.10, 98.57, 98.67, 98.94),
            others={
                "F-AnoGAN": _first(50.9, _STEEL),
                "Uninf student": _first(54.9, _STEEL),
                "TNN": (None, None, None, None, None, 98.74),
                "MixSup": (91.6, 92.7, 93.2, 96.9, 98.1, 98.8),
            },
        ),
        Table(
            4, "KolektorSDD2, AP", "ksdd2", "ap", _KSDD2, _mffpa(88.01, 91.49, 93.05, 94.16, 95.60),
            others={
                "F-AnoGAN": _first(55.0, _KSDD2),
                "SDA": (None, None, None, None, 68.7),
                "Uninf student": _first(65.3, _KSDD2),
                "MixSup": (74.4, 82.3, 89.4, 92.2, 95.4),
                "PSIC": (None, None, None, None, 93.3),
                "SGSF": _first(86.3, _KSDD2),
                "DSR": (87.2, 91.4, 94.6, None, 95.2),
                "MaMi": (80, 89.7, 92.3, 94.1, 96.2),
            },
        ),
        Table(
            5, "Ablation of the modules on KolektorSDD2, AP", "ksdd2", "ap", _KSDD2,
            (
                Column("Baseline", "baseline", None, _BASELINE_AP),
                Column("MFF", "mff", None, (81.45, 87.84, 91.85, 93.84, 94.82)),
                Column("PA", "pa", "ca", (85.66, 90.01, 92.33, 93.42, 94.72)),
                Column("MFF+PA", "mffpa", "ca", (88.01, 91.49, 93.05, 94.16, 95.60)),
            ),
            averages={"Baseline": 86.52, "MFF": 89.96, "PA": 91.23, "MFF+PA": 92.46},
        ),
        Table(
            6, "Ablation of the modules on KolektorSDD2, AUC", "ksdd2", "auc", _KSDD2,
            (
                Column("Baseline", "baseline", None, _BASELINE_AUC),
                Column("MFF", "mff", None, (90.72, 94.62, 96.39, 97.48, 98.49)),
                Column("PA", "pa", "ca", (95.07, 97.34, 97.78, 98.13, 98.60)),
                Column("MFF+PA", "mffpa", "ca", (93.87, 95.59, 97.15, 97.46, 98.63)),
            ),
            averages={"Baseline": 94.41, "MFF": 95.54, "PA": 97.38, "MFF+PA": 96.54},
        ),
        # The CA rows equal the PA columns of Tables 5 and 6: `pa` is the network whose weights are compared.
        Table(
            7, "Weights of the pyramid on KolektorSDD2, AP", "ksdd2", "ap", _KSDD2,
            (
                Column("Baseline", "baseline", None, _BASELINE_AP),
                Column("SE", "pa", "se", (84.86, 86.53, 90.01, 92.92, 94.45)),
                Column("CA", "pa", "ca", (85.66, 90.01, 92.33, 93.42, 94.72)),
            ),
        ),
        Table(
            8, "Weights of the pyramid on KolektorSDD2, AUC", "ksdd2", "auc", _KSDD2,
            (
                Column("Baseline", "baseline", None, _BASELINE_AUC),
                Column("SE", "pa", "se", (95.21, 95.18, 97.21, 97.86, 98.57)),
                Column("CA", "pa", "ca", (95.07, 97.34, 97.78, 98.13, 98.60)),
            ),
        ),
    )
}


@dataclass(frozen=True)
class Cost:
    """A row of Table 9. parameters in millions, macs in thousands of millions (the paper calls them FLOPs).

    model: None where the network cannot be built here.
    """

    title: str
    model: str | None
    parameters: float
    macs: float
    fps: float


# The paper cuts 31.796 to 31.79 and rounds the other numbers of operations.
TABLE_9 = (
    Cost("Baseline", "baseline", 15.64, 47.99, 35.15),
    Cost("MFF", "mff", 8.58, 31.79, 46.03),
    Cost("PA", "pa", 10.87, 32.35, 46.24),
    Cost("MFF+PA", "mffpa", 11.29, 33.32, 41.15),
    Cost("MaMiNet", None, 16.82, 50.72, 32.86),
)
TABLE_9_SIZE = (640, 232)  # H×W, RGB
