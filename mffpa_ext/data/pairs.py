"""Images and their mask files, paired by name."""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mffpa_ext.data.images import is_image_file, read_mask
from mffpa_ext.errors import UserError


@dataclass(frozen=True)
class Pairs:
    """What a folder holds. images and masks: stem of the image → file, in order of the names."""

    images: dict[str, Path]
    masks: dict[str, Path]

    @property
    def without_image(self) -> list[str]:
        """Stems of masks that have no image."""
        return [stem for stem in self.masks if stem not in self.images]

    @property
    def without_mask(self) -> list[str]:
        """Stems of images that have no mask."""
        return [stem for stem in self.images if stem not in self.masks]

    def require_complete(self, title: str, image_ending: str, mask_ending: str) -> None:
        """Raises UserError for an image without mask file, a mask without image.

        title: of the data set. Endings: of the published file names, after the stem.
        """
        for stem in self.without_mask:
            image = self.images[stem]
            raise UserError(f"{image}: expected its mask {image.with_name(stem + mask_ending)}, found no such file: "
                            f"in {title} every image has one, defective or not")
        for stem in self.without_image:
            mask = self.masks[stem]
            raise UserError(f"{mask}: expected its image {mask.with_name(stem + image_ending)}, found no such file")


def find_pairs(images: Path, suffix: str, masks: Path | None = None, skipped: Collection[str] = ()) -> Pairs:
    """Image files of the folder `images`, and mask files, whose stem is that of the image and `suffix`.

    masks: folder of the mask files, which need not exist; None: they lie among the images.
    skipped: stems of files that are passed over.
    """
    files = _image_files(images, skipped)
    if masks is None:
        mask_files = [path for path in files if path.stem.endswith(suffix)]
        files = [path for path in files if not path.stem.endswith(suffix)]
    else:
        mask_files = [path for path in _image_files(masks, skipped) if path.stem.endswith(suffix)]
    return Pairs({path.stem: path for path in files},
                 {path.stem.removesuffix(suffix): path for path in mask_files})


def read_labels(masks: Sequence[Path]) -> list[int]:
    """1 for each mask file that marks a pixel, else 0. One that cannot be read is told of, or skipped, when its image
    is read."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_label, masks))


def _label(mask: Path) -> int:
    try:
        return int(read_mask(mask).any())
    except UserError:
        return 0


def _image_files(folder: Path, skipped: Collection[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if is_image_file(path) and path.stem not in skipped]
