"""Many images: in order, bounded, whatever is wrong with some of them, and each as soon as it can be."""

import queue
import struct
import time
from types import SimpleNamespace

import pytest
import torch

from mffpa_ext.errors import UserError
from mffpa_ext.inference import Predictor, stream
from mffpa_ext.inference.inputs import InputImage
from mffpa_ext.inference.stream import predict_stream


class Brightness(torch.nn.Module):
    """A network whose logit is the mean of its image."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean(dim=(1, 2, 3))[:, None], x[:, :, ::8, ::8]


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(Brightness(), device="cpu")


def image(number: int) -> InputImage:
    return InputImage(f"{number}.png", f"{number}.png")


def read(source: InputImage) -> torch.Tensor:
    return torch.full((1, 8, 8), int(source.given.removesuffix(".png")), dtype=torch.uint8)


def score(number: int) -> float:
    return torch.tensor(number / 255).double().sigmoid().item()


def test_results_come_in_order_in_full_batches(predictor: Predictor) -> None:
    def slowly(source: InputImage) -> torch.Tensor:
        time.sleep(0.02 if source.given in ("0.png", "5.png") else 0)
        return read(source)

    batches = list(predict_stream(predictor, slowly, map(image, range(8)), 3, threads=4))
    assert [[result.image.given for result in batch] for batch in batches] == [
        ["0.png", "1.png", "2.png"], ["3.png", "4.png", "5.png"], ["6.png", "7.png"]
    ]
    for number, result in enumerate(result for batch in batches for result in batch):
        assert result.score == pytest.approx(score(number)) and result.error is None
        assert result.mask.shape == (1, 1) and result.decode_ms >= 0 and result.model_ms > 0
    assert list(predict_stream(predictor, read, [])) == []


def test_the_time_of_a_batch_is_shared(predictor: Predictor, monkeypatch) -> None:
    ticks = iter([1.0, 1.5])
    monkeypatch.setattr(stream, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    batch = [stream._Decoded(image(number), read(image(number)), 3.0, None) for number in range(4)]
    results = stream._predict_batch(predictor, batch)
    assert [(result.decode_ms, result.model_ms) for result in results] == [(3.0, 125.0)] * 4


def test_bad_images_are_results_like_the_others(predictor: Predictor) -> None:
    def picky(source: InputImage) -> torch.Tensor:
        if source.given == "1.png":
            raise UserError("1.png: expected an image,\n got none")
        if source.given == "2.png":
            raise struct.error("unpack requires 4 bytes")
        return read(source)

    images = [*map(image, range(4)), InputImage("dir", "dir", "dir: expected images, found none")]
    (batch,) = predict_stream(predictor, picky, images, 5)
    assert [result.error for result in batch] == [
        None, "1.png: expected an image, got none", "2.png: cannot be read (error: unpack requires 4 bytes)", None,
        "dir: expected images, found none",
    ]
    assert batch[3].score == pytest.approx(score(3)) and batch[1].score is None
    (all_bad,) = predict_stream(predictor, picky, [image(1)], 5)
    assert all_bad[0].error


def test_a_score_that_is_no_number_is_an_error() -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.mean(dim=(1, 2, 3))[:, None] * float("nan"), x[:, :, ::8, ::8]

    ((result,),) = predict_stream(Predictor(Broken(), device="cpu"), read, [image(1)])
    assert result.score is None and "its score is not a number" in result.error


def test_from_a_pipe_nothing_waits_for_the_next_path(predictor: Predictor) -> None:
    pipe: queue.Queue = queue.Queue()
    batches = predict_stream(predictor, read, iter(pipe.get, None), 4, full_batches=False)
    for number in range(3):
        pipe.put(image(number))
        (result,) = next(batches)
        assert result.image.given == f"{number}.png"
    pipe.put(None)
    assert list(batches) == []


def test_no_more_is_read_ahead_than_is_said(predictor: Predictor) -> None:
    asked = []

    def source():
        for number in range(100):
            asked.append(number)
            yield image(number)

    batches = predict_stream(predictor, read, source(), 2, threads=3)
    next(batches)
    time.sleep(0.1)
    assert len(asked) <= 2 + (2 * 2 + 3) + 1  # taken, ahead, and the one that waits
    batches.close()
    time.sleep(0.1)
    assert len(asked) <= 11


def test_what_goes_wrong_with_the_source_is_raised(predictor: Predictor) -> None:
    def source():
        yield image(1)
        raise UserError("standard input is gone")

    batches = predict_stream(predictor, read, source())
    assert next(batches)[0].score == pytest.approx(score(1))
    with pytest.raises(UserError, match="standard input is gone"):
        next(batches)
