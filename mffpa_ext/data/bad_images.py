"""Images that cannot be used: all of them in one error, or left out with a list."""

from collections.abc import Sequence
from typing import NamedTuple

from mffpa_ext.errors import UserError

POLICIES = ("error", "skip")
_SHOWN = 10  # in one message


class BadImage(NamedTuple):
    """name: that of the record. reason: one line that names the file and says what is wrong with it."""

    name: str
    reason: str


def bad_images_error(bad: Sequence[BadImage], total: int) -> UserError:
    """The error of `bad` among `total` images. One alone speaks for itself."""
    if len(bad) == 1:
        return UserError(bad[0].reason)
    reasons = listed([f"({number}) {image.reason}" for number, image in enumerate(bad, start=1)])
    return UserError(f"{len(bad)} of {total} images cannot be used: {reasons}; "
                     f"repair them, or leave them out with --on-bad-image skip")


def skipped_notes(bad: Sequence[BadImage], total: int) -> list[str]:
    """What is to be said of images that are left out. Raises UserError where they are more than half of all."""
    if not bad:
        return []
    if 2 * len(bad) > total:
        reasons = listed([image.reason for image in bad], 3)
        raise UserError(f"--on-bad-image skip: {len(bad)} of {total} images cannot be used, more than half: "
                        f"something else is wrong: {reasons}")
    return [f"skipped {len(bad)} of {total} images that cannot be used: {listed([image.name for image in bad])}"]


def listed(texts: Sequence[str], shown: int = _SHOWN) -> str:
    """Some texts as one, at most `shown` of them and the number of the others."""
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return "; ".join(texts[:shown]) + more
