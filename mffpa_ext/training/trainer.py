"""The training loop."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mffpa_ext.data.dataset import DefectDataset
from mffpa_ext.data.folder_files import normal
from mffpa_ext.data.images import to_network_input
from mffpa_ext.data.sampler import BalancedSampler
from mffpa_ext.errors import UserError
from mffpa_ext.models import DefectNetwork
from mffpa_ext.precision import autocast
from mffpa_ext.training.augment import flip_batch
from mffpa_ext.training.checkpoint import model_facts, save_checkpoint
from mffpa_ext.training.config import TrainConfig
from mffpa_ext.training.interruption import deferred_interrupts, leave_interrupts_to_the_trainer
from mffpa_ext.training.losses import LossTerms, LossWeights, loss_terms, loss_weights
from mffpa_ext.training.progress import TrainingProgress
from mffpa_ext.training.run_folder import RunFolder


@dataclass(frozen=True)
class Validation:
    """What the validation images say of one epoch.

    ap, auc: None where one kind of image is missing. threshold: of the score in 0..1, from which on an image counts as
    defective. operating_point: how it was chosen, in primitives.
    """

    ap: float | None
    auc: float | None
    threshold: float
    operating_point: dict[str, Any] | None = None


class Trainer:
    """Trains a network on a data set, epoch by epoch, writing a checkpoint after each.

    Args:
        model, dataset: on the CPU; the model is moved to the device.
        config: resolved.
        device: where to train.
        folder: receives log.csv, last.pt and best.pt.
        facts: stored in every checkpoint beside the weights (configuration, preprocessing): primitives only.
        validate: called with the model after each epoch; None trains to the last epoch and selects nothing.
        workers: processes that load batches; they never change the result.
    """

    def __init__(
        self,
        model: DefectNetwork,
        dataset: DefectDataset,
        config: TrainConfig,
        device: torch.device,
        folder: RunFolder,
        facts: dict[str, Any],
        validate: Callable[[DefectNetwork], Validation] | None,
        workers: int = 0,
    ) -> None:
        self.model = model.to(device, memory_format=torch.channels_last)
        self.config = config
        self.device = device
        self.folder = folder
        self.facts = facts
        self.validate = validate
        names = "\n".join(f"{label}{'' if annotated else '?'} {normal(name)}" for label, annotated, name in zip(
            dataset.labels, dataset.annotated, dataset.names, strict=True))
        self.training_images = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
        self.sampler = BalancedSampler(dataset.labels, config.seed)
        self.loader = DataLoader(
            dataset,
            batch_size=config.batch_size,
            sampler=self.sampler,
            num_workers=workers,
            persistent_workers=workers > 0,  # else every epoch would start them anew
            worker_init_fn=leave_interrupts_to_the_trainer,
            pin_memory=device.type == "cuda",
            generator=torch.Generator().manual_seed(config.seed),  # else worker seeds are drawn from the global state
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.lr)
        # float16 gradients underflow without scaling; the other precisions pass through unscaled.
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
        self.epoch = 0
        self.log: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.threshold: float | None = None
        self.operating_point: dict[str, Any] | None = None

    def fit(self) -> None:
        """Trains the remaining epochs. Raises UserError when loss or weights are no longer numbers.

        Whatever interrupts it, the checkpoints in the folder are whole, and last.pt continues the run.
        """
        epochs, steps = self.config.epochs, len(self.loader)
        if self.log:
            self.folder.write_log(self.log)  # the run may have ended between the checkpoint and its log
        with TrainingProgress(epochs * steps, self.epoch * steps) as progress:
            while self.epoch < epochs:
                started = time.monotonic()
                row = self._train_epoch(progress)
                validation = self.validate(self.model) if self.validate else None
                row |= {
                    "val_ap": None if validation is None else validation.ap,
                    "val_auc": None if validation is None else validation.auc,
                    "seconds": round(time.monotonic() - started, 3),
                }
                self.log.append(row)
                self.epoch += 1
                self._save(validation)
                progress.line(self._describe(row))

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run continues from: tensors and primitives."""
        return {
            **self.facts,
            "model_facts": model_facts(self.model),
            "model": self.model.state_dict(),
            "epoch": self.epoch,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "sampler": self.sampler.state_dict(),
            "training_images": self.training_images,
            "log": self.log,
            "best": self.best,
            "threshold": self.threshold,
            "operating_point": self.operating_point,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises UserError for the state of another network or of other training images."""
        if state.get("training_images", self.training_images) != self.training_images:
            raise UserError(
                f"{self.folder.last}: the training images and masks are not those that the run began with: give the "
                f"folder of the same data with --data-root (and of a published data set its --split-file)"
            )
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            self.sampler.load_state_dict(state["sampler"])
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.folder.last}: damaged, the run cannot be continued: {reason[:200]}") from None
        self.epoch = state["epoch"]
        self.log = state["log"]
        self.best = state["best"]
        self.threshold = state.get("threshold")
        self.operating_point = state.get("operating_point")

    def _train_epoch(self, progress: TrainingProgress) -> dict[str, Any]:
        config = self.config
        weights = loss_weights(config.loss_weights, config.theta, self.epoch, config.epochs)
        self.model.train()
        self.sampler.set_epoch(self.epoch)
        sums = {"segmentation": 0.0, "classification": 0.0, "segmented": 0, "images": 0}
        for step, batch in enumerate(self._batches(), start=1):
            if config.augment == "flips":
                batch = flip_batch(batch, self.loader.dataset, config.seed, self.epoch)
            self._set_lr((self.epoch + (step - 1) / len(self.loader)) / config.epochs)
            terms = self._step(batch, weights, step)
            sums["segmentation"] += terms.segmentation.sum().item()
            sums["classification"] += terms.classification.sum().item()
            sums["segmented"] += int(terms.segmented.sum())
            sums["images"] += len(terms.segmented)
            progress.step(
                self.epoch + 1,
                sums["segmentation"] / max(sums["segmented"], 1),
                sums["classification"] / sums["images"],
            )
        self._check_weights()
        return {
            "epoch": self.epoch + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
            "weight_seg": weights.segmentation,
            "weight_cls": weights.classification,
            "loss_seg": sums["segmentation"] / max(sums["segmented"], 1),
            "loss_cls": sums["classification"] / sums["images"],
        }

    def _set_lr(self, progress: float) -> None:
        """progress: part of the run that is done, 0 to 1. Needs no state, so a resumed run goes on as it would have."""
        factor = 0.5 * (1 + math.cos(math.pi * progress)) if self.config.lr_schedule == "cosine" else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * factor

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        """The loader's batches; what goes wrong in its processes comes as one line."""
        try:
            with deferred_interrupts():
                batches = iter(self.loader)  # in the first epoch this starts the processes
            yield from batches
        except UserError as error:  # from a process it comes with that process's traceback as its text
            raise UserError(str(error).strip().splitlines()[-1].removeprefix(f"{UserError.__module__}.UserError: "))
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"--workers {self.loader.num_workers}: a loading process died in epoch {self.epoch + 1}, for want of "
                f"memory or of shared memory as a rule: continue with --resume {self.folder.path} --workers 0"
            ) from None

    def _check_weights(self) -> None:
        """The last step of an epoch has no next loss to show what it did; such weights must not be saved."""
        damaged = [name for name, value in self.model.state_dict().items() if not torch.isfinite(value).all()]
        if damaged:
            raise UserError(
                f"the weights {damaged[0]} are no longer finite after epoch {self.epoch + 1}: {self._kept()}"
                f"lower --lr or set --grad-clip 1"
            )

    def _kept(self) -> str:
        return f"{self.folder.last} holds epoch {self.epoch}; " if self.epoch else ""

    def _step(self, batch: dict[str, Tensor], weights: LossWeights, step: int) -> LossTerms:
        images = to_network_input(batch["image"], self.device)
        truth = {key: batch[key].to(self.device) for key in ("target", "weight", "label", "segmented")}
        with autocast(self.device, self.config.precision):
            decision, mask_logits = self.model(images)
        terms = loss_terms(decision, mask_logits, truth)
        loss = terms.total(weights)
        if not math.isfinite(loss.item()):
            raise UserError(
                f"the loss became {loss.item()} in epoch {self.epoch + 1}, step {step} (images "
                f"{batch['index'].tolist()}): {self._kept()}lower --lr or set --grad-clip 1"
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.config.grad_clip:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return terms

    def _save(self, validation: Validation | None) -> None:
        """best.pt is the last epoch of the highest validation AP, then AUC; the last of all where there is no AP."""
        improved = True
        # Of this epoch's own weights, also where another epoch's were better.
        self.threshold = None if validation is None else validation.threshold
        self.operating_point = None if validation is None else validation.operating_point
        if validation is not None and validation.ap is not None:
            rank = (validation.ap, validation.auc)
            # Few validation images tie soon; of equal epochs the last has learned most.
            improved = self.best is None or rank >= (self.best["ap"], self.best["auc"])
            if improved:
                self.best = {"epoch": self.epoch, "ap": validation.ap, "auc": validation.auc}
        else:
            self.best = {"epoch": self.epoch, "ap": None, "auc": None}
        state = self.state_dict()
        if improved:
            save_checkpoint(self.folder.best, state)
        save_checkpoint(self.folder.last, state)
        self.folder.write_log(self.log)

    def _describe(self, row: dict[str, Any]) -> str:
        text = (
            f"epoch {row['epoch']}/{self.config.epochs}  "
            f"seg {row['loss_seg']:.4f} x {row['weight_seg']:.2f}  cls {row['loss_cls']:.4f} x {row['weight_cls']:.3f}"
        )
        if row["val_ap"] is not None:
            text += f"  val AP {row['val_ap']:.4f} AUC {row['val_auc']:.4f}"
        left = sum(entry["seconds"] for entry in self.log) / len(self.log) * (self.config.epochs - row["epoch"])
        return f"{text}  {row['seconds']:.1f} s, {left:.0f} s left"
