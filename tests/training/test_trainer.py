"""The training loop: what a run writes, that it can be stopped anywhere, and what ends it."""

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mffpa_ext.data.config import DataConfig
from mffpa_ext.data.loading import load_splits
from mffpa_ext.errors import UserError
from mffpa_ext.training import checkpoint
from mffpa_ext.training.checkpoint import read_checkpoint, read_training_state
from mffpa_ext.training.losses import LossWeights
from mffpa_ext.training.run_folder import RunFolder
from mffpa_ext.training.trainer import Validation

from .conftest import same_weights, without_seconds


def finished(trainer) -> tuple[dict[str, torch.Tensor], list]:
    trainer.fit()
    return {key: value.clone() for key, value in trainer.model.state_dict().items()}, without_seconds(trainer.log)


def interrupt_at(trainer, epoch: int, step: int) -> None:
    """Ctrl-C in the middle of an epoch (both counted from 1)."""
    genuine = trainer._step

    def stepping(batch, weights, number):
        if (trainer.epoch + 1, number) == (epoch, step):
            signal.raise_signal(signal.SIGINT)
        return genuine(batch, weights, number)

    trainer._step = stepping


@pytest.mark.parametrize("settings", [{}, {"augment": "flips", "loss_weights": "constant"}, {"precision": "bf16"}],
                         ids=["plain", "flips", "bf16"])
def test_a_run_that_was_stopped_and_continued_ends_bitwise_the_same(
    make_trainer: Callable, folder: RunFolder, tmp_path: Path, settings: dict
) -> None:
    weights, log = finished(make_trainer(epochs=3, **settings))
    best = read_checkpoint(folder.best)["model"]
    for file in folder.path.iterdir():
        file.unlink()

    stopped = make_trainer(epochs=3, **settings)
    interrupt_at(stopped, epoch=2, step=2)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit()
    assert read_checkpoint(folder.last)["epoch"] == 1
    torch.manual_seed(12345)  # a new process has drawn other numbers
    continued = make_trainer(epochs=3, **settings)
    continued.load_state_dict(read_training_state(folder.last))
    assert continued.epoch == 1
    resumed_weights, resumed_log = finished(continued)
    assert same_weights(resumed_weights, weights)
    assert resumed_log == log
    assert same_weights(read_checkpoint(folder.best)["model"], best)
    with folder.log.open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_stopped_between_checkpoint_and_log_the_log_is_made_up_for(make_trainer: Callable, folder: RunFolder) -> None:
    make_trainer(epochs=1).fit()
    folder.log.unlink()
    continued = make_trainer(epochs=1)
    continued.load_state_dict(read_training_state(folder.last))
    continued.fit()
    assert len(folder.log.read_text().splitlines()) == 2


def test_workers_change_nothing(make_trainer: Callable) -> None:
    weights, log = finished(make_trainer(epochs=2, augment="flips"))
    other_weights, other_log = finished(make_trainer(epochs=2, augment="flips", workers=2))
    assert same_weights(weights, other_weights) and log == other_log


def test_another_seed_is_another_run(make_trainer: Callable) -> None:
    weights, _ = finished(make_trainer(epochs=1))
    others, _ = finished(make_trainer(epochs=1, seed=1))
    assert not same_weights(weights, others)


def test_the_log_tells_the_schedule_and_both_losses(make_trainer: Callable, folder: RunFolder) -> None:
    make_trainer(epochs=2, theta=0.5, lr=0.01, lr_schedule="constant").fit()
    with folder.log.open() as file:
        rows = list(csv.DictReader(file))
    schedule = [tuple(float(row[key]) for key in ("weight_seg", "weight_cls", "lr")) for row in rows]
    assert schedule == [(1, 0, 0.01), (0.5, 0.25, 0.01)]
    assert all(0 < float(r["loss_seg"]) < 100 and 0 < float(r["loss_cls"]) < 10 for r in rows)
    assert all(r["val_ap"] == r["val_auc"] == "" for r in rows)


def test_cosine_falls_from_lr_to_nearly_nothing_step_by_step(make_trainer: Callable) -> None:
    trainer = make_trainer(epochs=2, lr=0.1, lr_schedule="cosine")
    used, genuine = [], trainer._step
    trainer._step = lambda *arguments: used.append(trainer.optimizer.param_groups[0]["lr"]) or genuine(*arguments)
    trainer.fit()
    # four steps: 0, 1/4, 1/2 and 3/4 of the run are done before them
    assert used == pytest.approx([0.1, 0.05 * (1 + 0.5**0.5), 0.05, 0.05 * (1 - 0.5**0.5)])
    assert [row["lr"] for row in trainer.log] == used[1::2]


def test_without_validation_best_is_the_last_epoch(make_trainer: Callable, folder: RunFolder) -> None:
    weights, _ = finished(make_trainer(epochs=2))
    for file in (folder.best, folder.last):
        state = read_checkpoint(file)
        assert state["epoch"] == 2 and same_weights(state["model"], weights)
        assert state["best"] == {"epoch": 2, "ap": None, "auc": None}
        assert state["threshold"] is None


def test_best_is_the_epoch_of_the_highest_validation_ap(make_trainer: Callable, folder: RunFolder) -> None:
    results = iter([(0.5, 0.9), (0.7, 0.6), (0.7, 0.8), (0.7, 0.8), (0.6, 1.0)])  # AUC, then the later
    seen = []

    def validate(model: torch.nn.Module) -> Validation:
        seen.append({key: value.clone() for key, value in model.state_dict().items()})
        return Validation(*next(results), threshold=len(seen) / 10)

    make_trainer(epochs=5, validate=validate).fit()
    best, last = read_checkpoint(folder.best), read_checkpoint(folder.last)
    assert (best["epoch"], last["epoch"]) == (4, 5)
    assert best["best"] == last["best"] == {"epoch": 4, "ap": 0.7, "auc": 0.8}
    assert (best["threshold"], last["threshold"]) == (0.4, 0.5)  # each is of its own weights
    assert same_weights(best["model"], seen[3]) and same_weights(last["model"], seen[4])
    assert [row["val_ap"] for row in last["log"]] == [0.5, 0.7, 0.7, 0.7, 0.6]


def test_without_an_ap_best_is_the_last_epoch_with_its_threshold(make_trainer: Callable, folder: RunFolder) -> None:
    thresholds = iter([0.3, 0.6])
    make_trainer(epochs=2, validate=lambda model: Validation(None, None, next(thresholds), {"rule": "fpr"})).fit()
    best = read_training_state(folder.best)
    assert (best["epoch"], best["threshold"], best["operating_point"]) == (2, 0.6, {"rule": "fpr"})
    assert best["best"] == {"epoch": 2, "ap": None, "auc": None} and best["log"][-1]["val_ap"] is None
    continued = make_trainer(epochs=2)
    continued.load_state_dict(best)
    assert continued.operating_point == {"rule": "fpr"}


def test_the_best_so_far_survives_a_resume(make_trainer: Callable, folder: RunFolder) -> None:
    first = make_trainer(epochs=2, validate=lambda model: Validation(0.9, 0.9, 0.4))
    interrupt_at(first, epoch=2, step=1)
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    second = make_trainer(epochs=2, validate=lambda model: Validation(0.8, 0.8, 0.2))
    second.load_state_dict(read_training_state(folder.last))
    second.fit()
    best, last = read_checkpoint(folder.best), read_checkpoint(folder.last)
    assert best["epoch"] == last["best"]["epoch"] == 1
    assert (best["threshold"], last["threshold"]) == (0.4, 0.2)


def test_a_loss_that_is_no_number_ends_the_run_with_the_last_checkpoint_intact(
    make_trainer: Callable, folder: RunFolder
) -> None:
    trainer = make_trainer(epochs=3)
    genuine = trainer._step

    def poisoned(batch, weights, step):
        if (trainer.epoch, step) == (1, 2):
            trainer.model.decision.bias.data.fill_(float("nan"))
        return genuine(batch, weights, step)

    trainer._step = poisoned
    with pytest.raises(UserError, match=r"loss became nan in epoch 2, step 2 .*last.pt holds epoch 1; lower --lr"):
        trainer.fit()
    state = read_training_state(folder.last)
    assert state["epoch"] == 1 and all(torch.isfinite(value).all() for value in state["model"].values())


def test_weights_that_the_last_step_made_infinite_are_not_saved(make_trainer: Callable, folder: RunFolder) -> None:
    trainer = make_trainer(epochs=2)
    genuine = trainer._step

    def poisoned(batch, weights, step):
        terms = genuine(batch, weights, step)
        if (trainer.epoch, step) == (1, len(trainer.loader)):
            trainer.model.decision.bias.data.fill_(float("inf"))
        return terms

    trainer._step = poisoned
    with pytest.raises(UserError, match=r"weights decision.bias are no longer finite after epoch 2: .*holds epoch 1"):
        trainer.fit()
    for file in (folder.last, folder.best):
        assert read_checkpoint(file)["epoch"] == 1


def test_a_full_disk_keeps_the_checkpoint_before(make_trainer: Callable, folder: RunFolder, monkeypatch) -> None:
    trainer = make_trainer(epochs=2)
    genuine = os.fsync

    def full_later(handle: int) -> None:
        if trainer.epoch == 2:
            raise OSError(28, "No space left on device")
        genuine(handle)

    monkeypatch.setattr(checkpoint.os, "fsync", full_later)
    with pytest.raises(UserError, match="best.pt: the checkpoint could not be written .No space left"):
        trainer.fit()
    assert sorted(path.name for path in folder.path.iterdir()) == ["best.pt", "last.pt", "log.csv"]
    assert read_training_state(folder.last)["epoch"] == 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_trains_float32_weights(make_trainer: Callable, precision: str) -> None:
    trainer = make_trainer(epochs=1, precision=precision, loss_weights="constant")
    before = {key: value.clone() for key, value in trainer.model.named_parameters()}
    weights, log = finished(trainer)
    assert all(weights[key].dtype == torch.float32 for key in before)
    changed = sum(not torch.equal(weights[key], before[key]) for key in before)
    assert changed > 0.9 * len(before)
    exact = finished(make_trainer(epochs=1, loss_weights="constant"))[1]
    for row, reference in zip(log, exact, strict=True):
        assert row["loss_seg"] == pytest.approx(reference["loss_seg"], rel=0.15)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])  # fp16 scales its gradients: the norm is that of unscaled ones
def test_gradient_clipping_bounds_the_step(make_trainer: Callable, precision: str) -> None:
    def first_step(clip: float) -> tuple[float, torch.Tensor]:
        trainer = make_trainer(lr=1.0, grad_clip=clip, loss_weights="constant", theta=1.0, precision=precision)
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, enabled=precision == "fp16")  # no overflow
        before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
        trainer.model.train()
        trainer._step(next(iter(trainer.loader)), LossWeights(1.0, 1.0), 1)
        step = torch.cat([p.detach().flatten() for p in trainer.model.parameters()]) - before
        return step.norm().item(), step / step.norm()

    free, direction = first_step(0.0)
    clipped, clipped_direction = first_step(0.25)
    assert free > 0.5  # else there would be nothing to clip
    assert clipped == pytest.approx(0.25, rel=1e-3)  # SGD at lr 1: the step is the gradient
    assert torch.dot(direction, clipped_direction).item() > 0.999
    assert first_step(100 * free)[0] == pytest.approx(free, rel=1e-5)


def test_other_training_images_are_noticed(make_trainer: Callable, folder: RunFolder, splits, monkeypatch) -> None:
    make_trainer(epochs=1).fit()
    renamed = ["elsewhere", *splits.train.names[1:]]
    monkeypatch.setattr(splits.train, "names", renamed)
    with pytest.raises(UserError, match="last.pt: the training images and masks are not those that the run began"):
        make_trainer(epochs=1).load_state_dict(read_training_state(folder.last))


@pytest.mark.parametrize("key", ["optimizer", "sampler"])
def test_a_damaged_training_state_is_one_line(make_trainer: Callable, folder: RunFolder, key: str) -> None:
    make_trainer(epochs=1).fit()
    state = read_training_state(folder.last) | {key: {}}
    with pytest.raises(UserError, match="last.pt: damaged, the run cannot be continued: ") as error:
        make_trainer(epochs=1).load_state_dict(state)
    assert "\n" not in str(error.value)


def test_an_error_in_a_loading_process_is_one_line(make_trainer: Callable, splits, monkeypatch) -> None:
    def gone(index: int) -> dict:
        raise UserError("images/0001.png: expected an image, found no such file")

    monkeypatch.setattr(type(splits.train), "__getitem__", lambda self, index: gone(index))
    with pytest.raises(UserError, match="^images/0001.png: expected an image, found no such file$"):
        make_trainer(epochs=1, workers=1).fit()


def test_a_loading_process_that_dies_says_how_to_go_on(make_trainer: Callable, splits, monkeypatch) -> None:
    monkeypatch.setattr(type(splits.train), "__getitem__", lambda self, index: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match="^--workers 1: a loading process died in epoch 1.*--workers 0$"):
        make_trainer(epochs=1, workers=1).fit()


def test_images_without_mask_do_not_train_the_segmentation(make_trainer: Callable) -> None:
    """N = 0 with the stop on: in the first epoch (classification weight 0) defective images change nothing."""
    unlabelled = load_splits(
        DataConfig(image_size=(32, 32), synthetic_train=12, synthetic_test=6, val_fraction=0.0, num_segmented=0),
        0, progress=False,
    ).train
    trainer = make_trainer(gradient_stop="on")
    defective = [index for index in range(len(unlabelled)) if unlabelled.labels[index]]
    batch = torch.utils.data.default_collate([unlabelled[index] for index in defective])
    before = {key: value.clone() for key, value in trainer.model.segmentation.named_parameters()}
    trainer._step(batch, LossWeights(1.0, 1.0), 1)
    assert same_weights(before, dict(trainer.model.segmentation.named_parameters()))
    with_defect_free = torch.utils.data.default_collate([unlabelled[defective[0]], unlabelled[len(unlabelled) - 1]])
    trainer._step(with_defect_free, LossWeights(1.0, 1.0), 1)
    assert not same_weights(before, dict(trainer.model.segmentation.named_parameters()))
