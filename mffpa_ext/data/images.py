"""Image and mask files → uint8 arrays. Whatever is wrong with a file becomes one line that names it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from mffpa_ext.data.types import MaskSource
from mffpa_ext.errors import UserError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pgm", ".ppm", ".webp"})
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_EXIF_ORIENTATION = 0x0112


def read_image(path: Path, channels: int, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Reads an image file as uint8 [channels,H,W].

    channels: 1 gray (colour is converted to ITU-R 601 luma), 3 RGB (gray is repeated, transparency dropped).
    size: H×W to resize to, bilinear with antialiasing; None: as it is. EXIF orientation is applied first.
    16-bit images are divided by 257, the same for every image of a data set: stretching each to its own range would
    turn brightness into noise. Raises UserError for a file that is missing, empty, truncated or no such image.
    """
    image = _to_mode(_open(path), "L" if channels == 1 else "RGB", path)
    if size is not None and (image.height, image.width) != tuple(size):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)  # Pillow's bilinear is antialiased
    pixels = torch.from_numpy(np.array(image))
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def to_network_input(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """uint8 [B,C,H,W] to float32 in 0..1 on the device, channels last: what the networks take."""
    pixels = images.to(device, non_blocking=True).float().div_(255)
    return pixels.contiguous(memory_format=torch.channels_last)


def read_mask(path: Path) -> np.ndarray:
    """Reads a mask file of any mode as uint8 [H,W]: 1 where a sample (in palette images: the index) is above 0.

    Palette masks count by index, not by colour: the masks of KSDD's defective images are palettes of two or three
    colours, so that a defect is drawn with index 1 or 2.
    Transparency is no sample. Raises UserError as `read_image` does.
    """
    image = _open(path)
    if image.mode in ("LA", "RGBA", "PA", "La", "RGBa"):
        image = image.convert({"LA": "L", "La": "L", "PA": "P"}.get(image.mode, "RGB"))
    samples = np.asarray(image)
    return (samples > 0 if samples.ndim == 2 else (samples > 0).any(axis=2)).astype(np.uint8)


def read_size(path: Path) -> tuple[int, int]:
    """H×W of an image file from its header, after EXIF orientation. Raises UserError as `read_image` does."""
    return _read(path, _oriented_size)


def check_same_size(image: Path, image_size: tuple[int, int], mask: Path | MaskSource, mask_size: tuple[int, int]) -> None:
    """Raises UserError unless image and mask, both H×W, agree."""
    if tuple(image_size) != tuple(mask_size):
        raise UserError(f"{mask}: expected the size of its image {image}, {_size(image_size)}, "
                        f"got {_size(mask_size)}: export the mask at the size of the image")


def is_image_file(path: Path) -> bool:
    """True for a file with the suffix of an image that is not hidden (such as macOS's `._` companions)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]} (height x width)"


def _open(path: Path) -> Image.Image:
    return _read(path, ImageOps.exif_transpose)


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
        raise UserError(f"{path}: too large to be an image of a product: {error}") from None
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


def _oriented_size(image: Image.Image) -> tuple[int, int]:
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def _to_mode(image: Image.Image, mode: str, path: Path) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        samples = np.asarray(image).astype(np.int64)
        if samples.min(initial=0) < 0 or samples.max(initial=0) > 65535:
            raise UserError(f"{path}: expected 8 or 16 bits a sample, got more: convert it to 8 or 16 bits")
        image = Image.fromarray(((samples + 128) // 257).astype(np.uint8))
    elif image.mode == "F":
        raise UserError(f"{path}: expected 8 or 16 bits a sample, got floating point: convert it to 8 or 16 bits")
    return image if image.mode == mode else image.convert(mode)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
