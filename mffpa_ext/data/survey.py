"""What the images of one's own folder are, from their headers: sizes, channels, bits, and what follows from them."""

import os
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mffpa_ext.data.config import STRIDE
from mffpa_ext.data.images import FULL_DEPTH, ImageHeader, read_header, read_image
from mffpa_ext.errors import UserError

LARGEST = 2**20  # pixels of a default image size: a training step of so many takes seconds on a CPU
_LOOKED_AT = 8  # images that are decoded for a hint
_STRETCHED = 1.25  # from this ratio of aspect ratios on, stretching is worth a note
_READERS = min(8, os.cpu_count() or 1)


@dataclass
class Survey:
    """headers: of the images that can be opened, by path. image_size: H×W, multiples of 8. channels: 1 or 3.

    found: lines that describe the images. notes: what to think of, one line each.
    """

    headers: dict[Path, ImageHeader]
    image_size: tuple[int, int]
    channels: int
    found: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def survey(paths: Sequence[Path], image_size: tuple[int, int] | None, channels: str | int, bit_depth: int) -> Survey:
    """Looks at every header. image_size None and channels "auto": chosen here.

    Files that cannot be opened are left out: they are told of when images are read. Raises UserError where none can.
    """
    headers, error = _headers(paths)
    if not headers:
        raise UserError(f"none of {len(paths)} images can be opened; the first: {error}")
    sizes = [header.size for header in headers.values()]
    size = image_size or default_size(sizes)
    number = (1 if all(header.gray for header in headers.values()) else 3) if channels == "auto" else channels
    result = Survey(headers, size, number)
    result.found = [
        f"sizes (height x width): {_common_sizes(sizes)}",
        f"kinds: {_counts(Counter(map(_kind, headers.values())))}; "
        f"files: {_counts(Counter(header.format for header in headers.values()))}",
        f"read as: {number} channel{'s' * (number > 1)}{' (auto)' if channels == 'auto' else ''}, "
        f"{size[0]}x{size[1]}{'' if image_size else _why_size(sizes, size)}",
    ]
    result.notes = _stretching(sizes, size) + _hints(headers, channels, number, bit_depth)
    return result


def default_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Median height and width of H×W sizes, at most `LARGEST` pixels of the same shape, as multiples of 8."""
    height, width = (statistics.median(sides) for sides in zip(*sizes))
    if height * width <= LARGEST:
        return tuple(max(STRIDE, round(side / STRIDE) * STRIDE) for side in (height, width))
    shrink = (LARGEST / (height * width)) ** 0.5
    return tuple(max(STRIDE, int(side * shrink / STRIDE) * STRIDE) for side in (height, width))


def _headers(paths: Sequence[Path]) -> tuple[dict[Path, ImageHeader], UserError | None]:
    def header(path: Path) -> ImageHeader | UserError:
        try:
            return read_header(path)
        except UserError as error:
            return error

    with ThreadPoolExecutor(_READERS) as pool:
        results = list(tqdm(pool.map(header, paths), total=len(paths), desc="headers", unit="img", disable=None,
                            leave=False))
    errors = [result for result in results if isinstance(result, UserError)]
    return ({path: result for path, result in zip(paths, results) if isinstance(result, ImageHeader)},
            errors[0] if errors else None)


def _kind(header: ImageHeader) -> str:
    return f"{'gray' if header.gray else 'colour'}{' 16-bit' if header.bits == 16 else ''}"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common())


def _common_sizes(sizes: Sequence[tuple[int, int]]) -> str:
    counter = Counter(sizes).most_common()
    text = ", ".join(f"{height}x{width} ({count})" for (height, width), count in counter[:4])
    if len(counter) > 4:
        heights, widths = zip(*sizes)
        text += (f" and {len(counter) - 4} more, heights {min(heights)} to {max(heights)}, "
                 f"widths {min(widths)} to {max(widths)}")
    return text


def _why_size(sizes: Sequence[tuple[int, int]], size: tuple[int, int]) -> str:
    if size[0] * size[1] < 0.9 * statistics.median(height * width for height, width in sizes):
        return f" (shrunk to less than {LARGEST // 2**20} megapixel; --image-size takes another)"
    if len(set(sizes)) > 1:
        return " (their median; --image-size takes another)"
    return "" if sizes[0] == size else " (multiples of 8)"


def _stretching(sizes: Sequence[tuple[int, int]], size: tuple[int, int]) -> list[str]:
    aspect = size[1] / size[0]
    worst = max(set(sizes), key=lambda each: abs(np.log(each[1] / each[0] / aspect)))
    factor = float(np.exp(abs(np.log(worst[1] / worst[0] / aspect))))
    if factor < _STRETCHED:
        return []
    return [f"images are stretched to {size[0]}x{size[1]} without regard to their shape, those of "
            f"{worst[0]}x{worst[1]} by a factor of {factor:.2f}: images of one shape learn better"]


def _hints(headers: dict[Path, ImageHeader], channels: str | int, number: int, bit_depth: int) -> list[str]:
    """Of settings that would spoil the images in silence; a few images tell."""
    notes = []
    deep = _decoded(headers, lambda header: header.bits == 16 and header.gray, 1)
    if bit_depth == FULL_DEPTH and deep and max(int(image.max()) for image in deep) < 32:
        notes.append(f"16-bit images look nearly black: none of {len(deep)} looked at passes an eighth of the range; "
                     f"say how many bits the camera uses, such as --bit-depth 12")
    colour = _decoded(headers, lambda header: not header.gray, 3) if number == 3 and channels == "auto" else []
    if colour and all((image == image[:1]).all() for image in colour):
        notes.append(f"all {len(colour)} colour images looked at are gray (red, green and blue agree): where all are, "
                     f"--channels 1 does the same in less time")
    return notes


def _decoded(headers: dict[Path, ImageHeader], wanted: Callable[[ImageHeader], bool], channels: int) -> list:
    paths = [path for path, header in headers.items() if wanted(header)]
    images = []
    for path in paths[::max(1, len(paths) // _LOOKED_AT)][:_LOOKED_AT]:
        try:
            images.append(read_image(path, channels))
        except UserError:  # told of when images are read
            continue
    return images
