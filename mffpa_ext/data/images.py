"""Image and mask files → uint8 arrays. Whatever is wrong with a file becomes one line that names it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from mffpa_ext.data.types import MaskSource
from mffpa_ext.errors import UserError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp", ".gif"})
FULL_DEPTH = 16  # bits that a sample of a 16-bit file may have
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_GRAY_MODES = ("1", "L", "LA", "La", *_SIXTEEN_BIT_MODES)
_MOST_CLASSES = 15  # a lossless mask without a larger value holds class numbers, not shades of gray
_EXIF_ORIENTATION = 0x0112

# Images of line cameras pass Pillow's first limit (89 megapixels), where it warns; at twice as much it refuses them.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class ImageHeader:
    """What an image file says of itself.

    size: H×W after EXIF orientation. gray: without colour (palettes by their entries). bits: 8 or 16 a sample.
    """

    size: tuple[int, int]
    gray: bool
    bits: int
    format: str


def read_image(
    path: Path, channels: int, size: tuple[int, int] | None = None, bit_depth: int = FULL_DEPTH
) -> torch.Tensor:
    """Reads an image file as uint8 [channels,H,W].

    channels: 1 gray (colour is converted to ITU-R 601 luma), 3 RGB (gray is repeated, transparency dropped).
    size: H×W to resize to, bilinear with antialiasing; None: as it is. EXIF orientation is applied first.
    bit_depth: bits of a 16-bit file that are used, 8 to 16: samples are scaled by 255 / (2^bit_depth - 1), the same for
    every image of a data set; stretching each to its own range would turn brightness into noise. 12-bit cameras as a
    rule write 0 to 4095 into 16-bit files: bit_depth 12. 8-bit files stay as they are.
    Raises UserError for a file that is missing, empty, truncated or no such image, for several images in one file, and
    for a sample above 2^bit_depth - 1.
    """
    image = _read(path, lambda opened: _to_mode(_upright(opened, path, bit_depth), channels, path, bit_depth))
    if size is not None and (image.height, image.width) != tuple(size):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)  # Pillow's bilinear is antialiased
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def to_network_input(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 [B,C,H,W] to float32 in 0..1 on the device, channels last: what the networks take."""
    pixels = images.to(device, non_blocking=True).float().div_(255)
    return pixels.contiguous(memory_format=torch.channels_last)


def read_mask(path: Path, threshold: int | None = None) -> np.ndarray:
    """Reads a mask file of any mode as uint8 [H,W]: 1 inside.

    threshold None: inside is where a sample (in palette images: the index) is above 0. Palette masks count by index,
    not by colour: the masks of KSDD's defective images are palettes of two or three colours, so that a defect is drawn
    with index 1 or 2.
    threshold 1 to 255: inside is where a sample reaches it, for masks with soft edges or JPEG noise. 16-bit samples are
    scaled to 255 first, unless none is above 255; of colour the largest sample counts. Masks of numbered classes keep
    all classes: palettes and lossless masks without a value above 15 are inside where they are above 0.
    Transparency is no sample. Raises UserError as `read_image` does.
    """
    samples, are_classes = _mask_samples(path)
    if threshold is None or are_classes:
        return (samples > 0).astype(np.uint8)
    return (_to_gray_values(samples) >= threshold).astype(np.uint8)


def largest_mask_value(path: Path) -> int:
    """The largest sample of a mask, 0 to 255 as `read_mask` compares it with a threshold; 0: an empty mask."""
    return int(_to_gray_values(_mask_samples(path)[0]).max(initial=0))


def read_header(path: Path) -> ImageHeader:
    """Reads what the file says of itself, not its pixels (except those of a palette image). Raises UserError."""
    return _read(path, _header)


def read_size(path: Path) -> tuple[int, int]:
    """H×W of an image file from its header, after EXIF orientation. Raises UserError as `read_image` does."""
    return _read(path, _oriented_size)


def check_same_size(
    image: Path, image_size: tuple[int, int], mask: Path | MaskSource, mask_size: tuple[int, int]
) -> None:
    """Raises UserError unless image and mask, both H×W, agree."""
    if tuple(image_size) != tuple(mask_size):
        raise UserError(f"{mask}: expected the size of its image {image}, {_size(image_size)}, "
                        f"got {_size(mask_size)}: export the mask at the size of the image")


def is_image_file(path: Path) -> bool:
    """True for a file with the suffix of an image that is not hidden (such as macOS's `._` companions)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} (height x width)"


def _upright(image: Image.Image, path: Path, bit_depth: int = FULL_DEPTH) -> Image.Image:
    """The decoded image, turned as its EXIF orientation says."""
    # A JPEG of a phone (MPO) carries previews behind the picture; other files of several images leave the choice open.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise UserError(f"{path}: expected one image, got a file that holds {frames}: save each as a file of its own")
    if bit_depth < FULL_DEPTH and _bits(image) == 16 and image.mode not in _SIXTEEN_BIT_MODES:
        # Pillow keeps the upper byte of such samples alone.
        raise UserError(f"{path}: expected 8-bit colour or 16-bit gray with --bit-depth {bit_depth}, got 16-bit colour "
                        f"or transparency: convert it to 8 bits a sample")
    return ImageOps.exif_transpose(image)


def _header(image: Image.Image) -> ImageHeader:
    bits, raw = _bits(image), _raw_mode(image)  # before anything decodes the pixels
    if image.mode == "P":
        palette = np.asarray(image.getpalette(), dtype=np.uint8).reshape(-1, 3)
        gray = bool((palette == palette[:, :1]).all())
    else:
        gray = image.mode in _GRAY_MODES or raw in ("LA", "LA;16B")
    # Not the PNG reader's own getexif, which decodes the image in search of a chunk behind the pixels.
    return ImageHeader(_oriented_size(image, Image.Image.getexif(image)), gray, bits, image.format or "?")


def _bits(image: Image.Image) -> int:
    """Of an image not yet decoded: afterwards nothing tells 16-bit colour from 8-bit colour."""
    return 16 if image.mode in _SIXTEEN_BIT_MODES or ";16" in _raw_mode(image) else 8


def _raw_mode(image: Image.Image) -> str:
    """The samples as the file stores them, such as "RGB;16B"; "" where Pillow does not say."""
    arguments = image.tile[0][3] if getattr(image, "tile", None) else None
    raw = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw if isinstance(raw, str) else ""


def _mask_samples(path: Path) -> tuple[np.ndarray, bool]:
    """Samples [H,W], of colour the largest, and whether they number classes (see `read_mask`)."""
    image, lossy = _read(path, lambda opened: (_upright(opened, path), opened.format in ("JPEG", "MPO", "WEBP")))
    numbered = image.mode in ("P", "PA", "1")
    if image.mode in ("LA", "RGBA", "PA", "La", "RGBa"):
        image = image.convert({"LA": "L", "La": "L", "PA": "P"}.get(image.mode, "RGB"))
    samples = np.asarray(image)
    if samples.ndim == 3:
        samples = samples.max(axis=2)
    return samples, numbered or not lossy and samples.max(initial=0) <= _MOST_CLASSES


def _to_gray_values(samples: np.ndarray) -> np.ndarray:
    return samples if samples.max(initial=0) <= 255 else samples / 257


def _read(path: Path, use: Callable[[Image.Image], Any]) -> Any:
    """`use` of the opened image, with Pillow's many exceptions turned into UserError."""
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path}: expected an image, got an empty file (0 bytes): copy it again or remove it")
        with Image.open(path) as image:
            _refuse_misread_bitmap(image, path)
            return use(image)
    except FileNotFoundError:
        raise UserError(f"{path}: expected an image, found no such file") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: expected an image, got something that is none: replace or remove it") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: too large ({_first_line(error)}): crop or shrink it") from None
    # A truncated or damaged file is an OSError, SyntaxError, ValueError, EOFError or struct.error, by the format.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, ArithmeticError) as error:
        raise UserError(f"{path}: cannot be read as an image ({_first_line(error)}): replace or remove it") from None


def _refuse_misread_bitmap(image: Image.Image, path: Path) -> None:
    """Pillow takes an 8-bit BMP whose palette is black and white for a 1-bit one, and returns wrong pixels."""
    if image.format == "BMP" and image.mode == "1":
        with path.open("rb") as file:
            header = file.read(30)
        bits = header[24:26] if header[14] == 12 else header[28:30]  # 12: the short header of OS/2
        if int.from_bytes(bits, "little") != 1:
            raise UserError(f"{path}: an 8-bit BMP with a palette of two colours, which Pillow misreads: "
                            f"save it as PNG or as a gray BMP")


def _oriented_size(image: Image.Image, exif: Image.Exif | None = None) -> tuple[int, int]:
    turned = (image.getexif() if exif is None else exif).get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _to_mode(image: Image.Image, channels: int, path: Path, bit_depth: int) -> Image.Image:
    mode = "L" if channels == 1 else "RGB"
    if image.mode in _SIXTEEN_BIT_MODES:
        samples, top = np.asarray(image), 2**bit_depth - 1
        low, high = samples.min(initial=0), samples.max(initial=0)
        if low < 0 or high > 65535:
            raise UserError(f"{path}: expected 8 or 16 bits a sample, got more: convert it to 8 or 16 bits")
        if high > top:
            raise UserError(f"{path}: expected samples up to {top} with --bit-depth {bit_depth}, got {high}: "
                            f"give the bit depth of the camera")
        image = Image.fromarray(((samples.astype(np.int32) * 255 + top // 2) // top).astype(np.uint8))
    elif image.mode == "F":
        raise UserError(f"{path}: expected 8 or 16 bits a sample, got floating point: convert it to 8 or 16 bits")
    elif image.mode == "LAB":  # which Pillow converts to RGB alone
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
