"""How masks are named after their images, such as `Part0_label.bmp` and `10000_GT.png`."""

MASK_SUFFIXES = ("_mask", "_label", "_gt")  # of the name without extension, in any case


def image_stem(stem: str) -> str | None:
    """The stem of the image that a file is the mask of, by its own; None where it is not named like a mask."""
    return next((stem[:-len(suffix)] for suffix in MASK_SUFFIXES if stem.lower().endswith(suffix)), None)
