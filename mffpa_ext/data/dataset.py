"""Records → tensors: every file is read and checked once, before training, and kept where memory allows."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from mffpa_ext.data.bad_images import BadImage, bad_images_error
from mffpa_ext.data.images import FULL_DEPTH, check_same_size, read_image, read_mask, read_size
from mffpa_ext.data.targets import TargetSpec, binary_mask, empty_target, make_target, unknown_target
from mffpa_ext.data.types import Record, Sample
from mffpa_ext.errors import UserError

_READERS = min(8, os.cpu_count() or 1)


class PixelBudget:
    """Bytes of decoded images that may still be kept, shared by the parts of a data set."""

    def __init__(self, gibibytes: float) -> None:
        self.left = int(gibibytes * 2**30)

    def grant(self, count: int, each: int) -> int:
        """Returns how many of `count` images of `each` bytes may be kept, and takes them off the budget."""
        granted = min(count, self.left // each)
        self.left -= granted * each
        return granted


class DefectDataset(Dataset):
    """Images with their segmentation targets. Items are the same whatever is cached and whichever process loads them.

    Making one reads every file, so a damaged file, a mask of another size or one that contradicts its label is found
    now and not hours into training: all of them are named in one UserError, or with `skip_bad` left out and listed in
    `bad`. Images are kept at the training size as uint8; positives first, as every epoch shows all of them.

    labels: int64 [N], 1 defective. annotated: bool [N], see `Record`. names: N strings.
    size: H×W in pixels, multiples of 8. channels: 1 or 3. budget: None keeps everything.
    bit_depth: bits that 16-bit files use, see `read_image`.
    """

    def __init__(self, records: Sequence[Record], size: tuple[int, int], channels: int, targets: TargetSpec,
                 budget: PixelBudget | None = None, title: str = "images", progress: bool = False,
                 bit_depth: int = FULL_DEPTH, skip_bad: bool = False) -> None:
        self.records = tuple(records)
        self.size, self.channels, self.target_spec = tuple(size), channels, targets
        self.bit_depth = bit_depth
        self.bad = self._keep(budget, title, progress)
        if self.bad and not skip_bad:
            raise bad_images_error(self.bad, len(records))
        self.labels = np.array([record.label for record in self.records], dtype=np.int64)
        self.annotated = np.array([record.annotated for record in self.records], dtype=bool)
        self.names = [record.name for record in self.records]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns one training item.

        image uint8 [C,H,W]; target, weight float32 [1,H/8,W/8]; label float32 []; segmented bool []: the truth of
        every pixel is known (negatives and annotated positives), else target and weight are zeros; index int.
        """
        index = self._index(index)
        label, annotated = int(self.labels[index]), bool(self.annotated[index])
        target, weight = self.target(index)
        return {"image": self._image(index), "target": target, "weight": weight,
                "label": torch.tensor(float(label)), "segmented": torch.tensor(not label or annotated), "index": index}

    def target(self, index: int, flips: tuple[int, ...] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns target and weight of an image mirrored along the axes `flips`: (), (-2,), (-1,) or (-2, -1).

        They are made of the mirrored mask: the grid's cells centre on pixels 0, 8, 16, …, which is no symmetric
        choice, so the mirrored grid of the mask as it is would lie 7 pixels beside the image.
        """
        index = self._index(index)
        if not self.labels[index]:
            return empty_target(self.size)
        if not self.annotated[index]:
            return unknown_target(self.size)
        if (index, flips) not in self._targets:
            mask = np.flip(_mask_of(self.records[index]), flips)
            self._targets[index, flips] = make_target(mask, self.size, self.target_spec)
        # Cloned: a caller that changes an item in place must not change the data set.
        target, weight = self._targets[index, flips]
        return target.clone(), weight.clone()

    def sample(self, index: int) -> Sample:
        """Returns image and undilated mask at the training size, for evaluation and display."""
        index = self._index(index)
        record = self.records[index]
        mask = None
        if not record.label:
            mask = torch.zeros(self.size, dtype=torch.uint8)
        elif record.annotated:
            mask = binary_mask(_mask_of(record), self.size)
        return Sample(self._image(index), mask, record.label, record.annotated, record.name)

    @property
    def from_files(self) -> bool:
        """Whether the images are read from files, rather than computed."""
        return isinstance(self.records[0].image, Path)

    def decode(self, index: int) -> torch.Tensor:
        """Reads image `index` from its source again, whatever is kept in memory: uint8 [C,H,W]."""
        return self._decode(self.records[self._index(index)])

    def _index(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a data set of {len(self)} images")
        return int(index) % len(self)

    def _image(self, index: int) -> torch.Tensor:
        slot = self._slots[index]
        return self._pixels[slot].clone() if slot >= 0 else self._decode(self.records[index])

    def _decode(self, record: Record) -> torch.Tensor:
        if isinstance(record.image, Path):
            return read_image(record.image, self.channels, self.size, self.bit_depth)
        return self._planes(record.image.render()[0])

    def _planes(self, gray: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(gray)[None].expand(self.channels, -1, -1).contiguous()

    def _keep(self, budget: PixelBudget | None, title: str, progress: bool) -> list[BadImage]:
        """Reads every record, keeps what the budget allows, and drops the records that are bad, which it returns."""
        shape, total = (self.channels, *self.size), len(self.records)
        count = total if budget is None else budget.grant(total, int(np.prod(shape)))
        # One tensor for all: worker processes then share one piece of memory, not thousands.
        self._pixels = torch.empty((count, *shape), dtype=torch.uint8)
        slots = np.full(total, -1, dtype=np.int64)
        labels = np.array([record.label for record in self.records], dtype=np.int64)
        slots[np.argsort(-labels, kind="stable")[:count]] = np.arange(count)

        def load(index: int) -> tuple[torch.Tensor, torch.Tensor] | None | BadImage:
            record = self.records[index]
            try:
                image, mask = self._checked(record)
            except UserError as error:
                return BadImage(record.name, str(error))
            if slots[index] >= 0:
                self._pixels[slots[index]] = image
            use_mask = record.label and record.annotated
            return make_target(mask, self.size, self.target_spec) if use_mask else None

        results = list(_in_threads(load, range(total), title, progress))
        good = [index for index, result in enumerate(results) if not isinstance(result, BadImage)]
        self.records = tuple(self.records[index] for index in good)
        self._slots = slots[good]
        # By index and flips: at most four pairs of small maps for an annotated positive, none for other images.
        self._targets: dict[tuple[int, tuple[int, ...]], tuple[torch.Tensor, torch.Tensor]] = {
            (new, ()): results[old] for new, old in enumerate(good) if results[old] is not None}
        return [result for result in results if isinstance(result, BadImage)]

    def _checked(self, record: Record) -> tuple[torch.Tensor, np.ndarray | None]:
        """Image and mask of a record. A mask that is not used is checked all the same."""
        if not isinstance(record.image, Path):
            pixels, mask = record.image.render()
            return self._planes(pixels), mask
        image = self._decode(record)
        if record.mask is None:
            if record.label and record.annotated:
                raise UserError(f"{record.image}: defective and to be used with its pixel mask, but it has none: "
                                f"add the mask or lower --num-segmented")
            return image, None
        mask = _mask_of(record)
        check_same_size(record.image, read_size(record.image), record.mask, mask.shape)
        if bool(mask.any()) != bool(record.label):
            state = ("marks no pixel, yet its image counts as defective" if record.label
                     else "marks pixels, yet its image counts as defect-free")
            raise UserError(f"{record.mask}: {state}: correct the mask or the listing")
        return image, mask


@dataclass
class DataSplits:
    """The parts of one data set.

    validation: None where no part is set aside; with `validate_on="test"` it is the very `test`.
    test: None where the user's own folder is used without one.
    image_size: H×W in pixels. official: the split is the published one. notes: what must be said beside the results,
    one line each. skipped: the bad images that were left out.
    """

    train: DefectDataset
    validation: DefectDataset | None
    test: DefectDataset | None
    channels: int
    image_size: tuple[int, int]
    official: bool
    notes: list[str] = field(default_factory=list)
    skipped: list[BadImage] = field(default_factory=list)


@dataclass
class DataPart:
    """One part of a data set alone, for evaluation. dataset: None for a part that there is not.

    official, notes: as in `DataSplits`.
    """

    dataset: DefectDataset | None
    official: bool
    notes: list[str] = field(default_factory=list)


def _mask_of(record: Record) -> np.ndarray:
    if record.mask is None:
        return record.image.render()[1]
    return read_mask(record.mask) if isinstance(record.mask, Path) else record.mask.read()


def _in_threads(work: Callable[[int], Any], items: Sequence[int], title: str, progress: bool) -> Iterable[Any]:
    """Results of `work` in the order of `items`."""
    with ThreadPoolExecutor(_READERS) as pool:
        try:
            yield from tqdm(pool.map(work, items), total=len(items), desc=title, unit="img",
                            disable=None if progress else True, leave=False)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
