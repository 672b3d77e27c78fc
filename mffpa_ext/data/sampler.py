"""Which images an epoch shows: all positives and as many negatives, as in MixSup (Božič et al. 2021)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from mffpa_ext.errors import UserError


class BalancedSampler(Sampler[int]):
    """Indices of one epoch: every positive once, as many negatives, positive and negative in turn, both shuffled.

    Negatives are drawn without replacement with a probability proportional to 2^-(times used), so that rare ones
    come first and yet epochs differ. With fewer negatives than positives each is used as often as it takes: the whole
    number of times all round, the remainder drawn as above.

    An epoch depends on the seed, its number and the history alone. Iterating goes on to the next epoch by itself;
    `set_epoch` sets the number. `state_dict` taken between two epochs resumes exactly.

    labels: [N], 1 positive, 0 negative. Raises UserError where either kind is missing.
    """

    def __init__(self, labels: Sequence[int] | np.ndarray, seed: int = 0) -> None:
        labels = np.asarray(labels)
        self.positives = np.flatnonzero(labels == 1)
        self.negatives = np.flatnonzero(labels == 0)
        if not len(self.positives):
            raise UserError("training images: expected defective and defect-free ones, found no defective one")
        if not len(self.negatives):
            raise UserError("training images: expected defective and defect-free ones, found no defect-free one")
        self.seed = int(seed)
        self.epoch = 0
        self.times_used = np.zeros(len(self.negatives), dtype=np.int64)

    def __len__(self) -> int:
        return 2 * len(self.positives)

    def set_epoch(self, epoch: int) -> None:
        """Sets the number of the epoch that the next iteration draws, counted from 0."""
        self.epoch = int(epoch)

    def __iter__(self) -> Iterator[int]:
        # Drawn at once, so that the history is complete however far a loader's workers read ahead.
        rng = np.random.default_rng([self.seed, self.epoch])
        order = np.empty(len(self), dtype=np.int64)
        order[0::2] = rng.permutation(self.positives)
        order[1::2] = rng.permutation(self._draw_negatives(rng))
        self.epoch += 1
        return iter(order.tolist())

    def _draw_negatives(self, rng: np.random.Generator) -> np.ndarray:
        rounds, remainder = divmod(len(self.positives), len(self.negatives))
        # The largest of log-weight plus Gumbel noise are a weighted draw without replacement (Efraimidis, Spirakis).
        keys = -np.log(2.0) * self.times_used + rng.gumbel(size=len(self.negatives))
        drawn = np.argsort(-keys, kind="stable")[:remainder]
        self.times_used += rounds
        self.times_used[drawn] += 1
        return self.negatives[np.concatenate([np.tile(np.arange(len(self.negatives)), rounds), drawn])]

    def state_dict(self) -> dict[str, Any]:
        """Seed, epoch and history (int64 [negatives]). Each epoch's generator is seeded afresh: no state of its own."""
        return {"seed": self.seed, "epoch": self.epoch, "times_used": torch.from_numpy(self.times_used.copy())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a `state_dict`. Raises UserError where it comes from another number of negatives."""
        times_used = torch.as_tensor(state["times_used"]).cpu().numpy()
        if times_used.shape != self.times_used.shape:
            raise UserError(f"sampler state: made with {times_used.size} defect-free training images, there are "
                            f"{self.times_used.size}: resume with the data and the split it was made with")
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])
        self.times_used = times_used.astype(np.int64, copy=True)
