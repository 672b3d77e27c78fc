"""Predictions of many images in the order in which they come: files are decoded ahead while the network computes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from mffpa_ext.errors import UserError
from mffpa_ext.inference.inputs import InputImage
from mffpa_ext.inference.predictor import Predictor


@dataclass(frozen=True)
class ImagePrediction:
    """What came of one image.

    score, mask_score: as of `Prediction`; mask: float32 [height / 8, width / 8], the probability of a defect at every
    pixel of the mask. decode_ms: reading and resizing. model_ms: copy to the device and network; an equal share of its
    batch's. Both in milliseconds. error: why there is no score, in one line; then all else is None.
    """

    image: InputImage
    score: float | None = None
    mask_score: float | None = None
    mask: np.ndarray | None = None
    decode_ms: float | None = None
    model_ms: float | None = None
    error: str | None = None


def predict_stream(
    predictor: Predictor,
    read: Callable[[InputImage], torch.Tensor],
    images: Iterable[InputImage],
    batch_size: int = 1,
    threads: int = 2,
    full_batches: bool = True,
) -> Iterator[list[ImagePrediction]]:
    """Predicts images, batch by batch, in their order. An image that cannot be read is a result like the others.

    Args:
        read: an image to uint8 [channels, height, width], as `Preprocessing.read`; called in threads.
        images: may block, as a pipe does: what has come before is predicted meanwhile. At most
            2 * batch_size + threads images are decoded and not yet predicted.
        full_batches: wait until batch_size images are there, so that batches, and with them the last digits of
            scores, do not depend on speed; False: take what is there.
    """
    with _Prefetcher(images, read, threads, 2 * batch_size + threads) as prefetcher:
        while batch := prefetcher.take(batch_size, full_batches):
            yield _predict_batch(predictor, batch)


def warm_up(predictor: Predictor, channels: int, size: tuple[int, int]) -> None:
    """One pass, so that the first image does not pay for what is made once. Raises ValueError for a wrong size."""
    predictor(torch.zeros(1, channels, *size, dtype=torch.uint8)).score.item()


@dataclass(frozen=True)
class _Decoded:
    image: InputImage
    pixels: torch.Tensor | None
    milliseconds: float
    error: str | None


def _predict_batch(predictor: Predictor, batch: list[_Decoded]) -> list[ImagePrediction]:
    readable = [item for item in batch if item.pixels is not None]
    results: dict[int, ImagePrediction] = {}
    if readable:
        started = time.perf_counter()
        prediction = predictor(torch.stack([item.pixels for item in readable]))
        scores, mask_scores = prediction.score.tolist(), prediction.mask_score.tolist()  # waits for the device
        masks = prediction.mask.cpu().numpy()
        share = (time.perf_counter() - started) * 1e3 / len(readable)
        for item, score, mask_score, mask in zip(readable, scores, mask_scores, masks, strict=True):
            if np.isfinite(score) and np.isfinite(mask_score):
                result = ImagePrediction(item.image, score, mask_score, mask, item.milliseconds, share)
            else:
                # Not a number is below every threshold: it must not pass for defect-free.
                result = ImagePrediction(item.image, error=f"{item.image.path}: its score is not a number: the "
                                                           f"weights are damaged, use another checkpoint")
            results[id(item)] = result
    return [results.get(id(item)) or ImagePrediction(item.image, error=item.error) for item in batch]


class _Prefetcher:
    """Decodes images in threads, a bounded number ahead.

    A thread of its own goes through `images`, which may wait for a pipe; it ends with the process at the latest.
    """

    def __init__(self, images: Iterable[InputImage], read: Callable[[InputImage], torch.Tensor], threads: int,
                 ahead: int) -> None:
        self._images, self._read = images, read
        self._pool = ThreadPoolExecutor(threads, "decode")
        self._slots = threading.Semaphore(ahead)
        self._ready: queue.SimpleQueue[Future[_Decoded] | BaseException | None] = queue.SimpleQueue()
        self._stopped = self._ended = False
        threading.Thread(target=self._feed, name="inputs", daemon=True).start()

    def __enter__(self) -> _Prefetcher:
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped = True
        self._slots.release()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def take(self, count: int, wait: bool) -> list[_Decoded]:
        """The next images, at most `count`, at least one; none at the end."""
        taken: list[_Decoded] = []
        while len(taken) < count and not self._ended:
            try:
                item = self._ready.get(block=wait or not taken)
            except queue.Empty:
                break
            if item is None:
                self._ended = True
            elif isinstance(item, BaseException):
                raise item
            else:
                taken.append(item.result())
                self._slots.release()
        return taken

    def _feed(self) -> None:
        try:
            for image in self._images:
                self._slots.acquire()
                if self._stopped:
                    return
                self._ready.put(self._pool.submit(self._decode, image))
            self._ready.put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised where it is noticed
            self._ready.put(error)

    def _decode(self, image: InputImage) -> _Decoded:
        started = time.perf_counter()
        pixels, error = None, image.error
        if error is None:
            try:
                pixels = self._read(image)
            except UserError as problem:
                error = str(problem)
            except Exception as problem:  # noqa: BLE001 - no file, whatever it holds, may stop the others
                error = f"{image.path}: cannot be read ({type(problem).__name__}: {problem})"
        milliseconds = (time.perf_counter() - started) * 1e3
        return _Decoded(image, pixels, milliseconds, None if error is None else " ".join(error.split()))
