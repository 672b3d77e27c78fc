"""How a cell of a table is made of runs: folds or classes, split files, and the published numbers of images."""

from dataclasses import dataclass

from mffpa_ext.data.facts import STEEL_POSITIVES
from mffpa_ext.data.published import DAGM_TEN, KSDD2_COUNTS, STEEL_TEST, STEEL_VALIDATION, dagm_counts
from mffpa_ext.errors import UserError


@dataclass(frozen=True)
class Part:
    """One fold, class, or the whole data set where it is not parted (number None).

    positives: defective training images, of which an epoch shows each once, with as many defect-free ones.
    """

    number: int | None
    positives: int
    test_images: int


@dataclass(frozen=True)
class Protocol:
    """How one data set is evaluated.

    split: split file below MixSup's folder of splits, with the fields n and positives (of STEEL).
    parts: a cell's value is the mean over them. part_flag: the field of `DataConfig` that names one. part_title: what
    one is called, and parts_flag the flag of `reproduce` that picks some.
    all_masks: the N that stands for the masks of all defective training images; None: no N of the table does.
    validation_images: scored after every epoch.
    """

    split: str
    parts: tuple[Part, ...]
    part_flag: str | None = None
    part_title: str = ""
    parts_flag: str | None = None
    all_masks: int | None = None
    validation_images: int = 0


def _dagm_class(number: int) -> Part:
    halves = dagm_counts(number)
    return Part(number, halves["Train"].defective, sum(halves["Test"]))


PROTOCOLS = {
    "ksdd": Protocol(
        "KSDD/split_33_{n}.pyb",
        (Part(0, 34, 135), Part(1, 34, 136), Part(2, 36, 128)),  # of MixSup's split files
        part_flag="fold", part_title="fold", parts_flag="folds", all_masks=33,
    ),
    "dagm": Protocol(
        "DAGM/split_{n}.pyb",
        tuple(map(_dagm_class, DAGM_TEN)),
        part_flag="dagm_class", part_title="class", parts_flag="classes", all_masks=1000,
    ),
    "ksdd2": Protocol(
        "KSDD2/split_{n}.pyb",
        (Part(None, KSDD2_COUNTS["train"].defective, sum(KSDD2_COUNTS["test"])),),
        all_masks=KSDD2_COUNTS["train"].defective,
    ),
    "steel": Protocol(
        "STEEL/split_{positives}_{n}.pyb",
        (Part(None, STEEL_POSITIVES, sum(STEEL_TEST)),),
        validation_images=sum(STEEL_VALIDATION),
    ),
}


def choose_parts(dataset: str, given: dict[str, str | None]) -> tuple[Part, ...]:
    """The parts that `--folds` or `--classes` name, or all of them.

    given: text of either flag by its name, None where it was not given. Raises UserError for a flag of another data
    set, and for numbers that are not there.
    """
    protocol = PROTOCOLS[dataset]
    for flag, text in given.items():
        if text is not None and flag != protocol.parts_flag:
            raise UserError(f"--{flag} {text}: the table's data set {dataset} has no {flag}: leave it out")
    text = given.get(protocol.parts_flag) if protocol.parts_flag else None
    if text is None:
        return protocol.parts
    known = {str(part.number): part for part in protocol.parts}
    numbers = [number.strip() for number in text.split(",")]
    if not all(number in known for number in numbers):
        raise UserError(f"--{protocol.parts_flag}: expected numbers from {min(known, key=int)} to "
                        f"{max(known, key=int)} with commas between, got {text!r}")
    return tuple(part for number, part in known.items() if number in numbers)
