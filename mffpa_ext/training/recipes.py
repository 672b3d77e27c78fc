"""Published training settings, as data: what a recipe says for each data set and number of pixel masks."""

from dataclasses import dataclass, field, replace
from typing import Any

from mffpa_ext.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run; every one can be overridden by its flag.

    theta: weight of the classification loss (theta in Eq. 4). loss_weights: "dynamic" is lambda = 1 - epoch / epochs
    (Eq. 4), "constant" weights the losses by 1 and theta. lr_schedule: "constant", or "cosine" from lr to 0 over the
    run. grad_clip: largest gradient norm, 0 for none.
    """

    epochs: int
    lr: float
    theta: float = 1.0
    batch_size: int = 1
    loss_weights: str = "dynamic"
    lr_schedule: str = "constant"
    grad_clip: float = 0.0
    gradient_stop: str = "auto"


@dataclass(frozen=True)
class Published:
    """What a recipe says for one data set.

    without_masks: settings that differ where no defective training image has a mask (N = 0). epochs_up_to: number of
    defective training images → epochs for up to so many, ascending; above the last, the recipe's own.
    """

    recipe: Recipe
    without_masks: dict[str, Any] = field(default_factory=dict)
    epochs_up_to: dict[int, int] = field(default_factory=dict)

    def settings(self, masks_used: bool, positives: int | None) -> Recipe:
        """The recipe for a run. positives: number of defective training images, None where it is not known yet."""
        changes = {} if masks_used else dict(self.without_masks)
        if positives is not None:
            epochs = [number for limit, number in self.epochs_up_to.items() if positives <= limit]
            changes |= {"epochs": epochs[0]} if epochs else {}
        return replace(self.recipe, **changes)


# Tang et al. 2024, section IV.B. The paper leaves theta open; these are the values of Božič et al.
PAPER = {
    "dagm": Published(Recipe(epochs=70, lr=0.05)),
    "ksdd": Published(Recipe(epochs=50, lr=0.01)),
    "ksdd2": Published(Recipe(epochs=50, lr=0.01)),
    "steel": Published(Recipe(epochs=90, lr=0.1, theta=0.1, batch_size=10)),
}

# Božič et al. 2021. The gradient stop is on at N = 0 too.
_CONSTANT = {"loss_weights": "constant"}
MIXSUP = {
    "dagm": Published(Recipe(epochs=70, lr=0.05, gradient_stop="on"), _CONSTANT),
    "ksdd": Published(Recipe(epochs=50, lr=1.0, theta=0.01, gradient_stop="on"),
                      {**_CONSTANT, "lr": 0.01, "theta": 1.0}),
    "ksdd2": Published(Recipe(epochs=50, lr=0.01, gradient_stop="on"), _CONSTANT),
    "steel": Published(Recipe(epochs=40, lr=0.1, theta=0.1, batch_size=10, gradient_stop="on"), _CONSTANT,
                       {300: 90, 750: 80, 1500: 60}),
}

# For trying things out in minutes on a CPU. A batch sums the gradients of its images, hence the clipping.
QUICK = {
    "synthetic": Published(
        Recipe(epochs=5, lr=0.3, theta=0.1, batch_size=8, lr_schedule="cosine", grad_clip=1.0)
    ),
    # The paper's steps for DAGM: on a folder of DAGM images (256x256, 12 of 36 defects with masks) they rank all
    # validation images right within two epochs. The schedule lets the last epochs settle.
    "folder": Published(Recipe(epochs=30, lr=0.05, lr_schedule="cosine")),
}

RECIPES = {"paper": PAPER, "mixsup": MIXSUP, "quick": QUICK}


def find_recipe(
    name: str | None, dataset: str, weakly_supervised: bool, positives: int | None = None
) -> tuple[str, Recipe]:
    """Name and settings of a recipe; without a name, the first that has the data set.

    weakly_supervised: no defective training image has a mask (N = 0). positives: number of defective training images,
    None where it is not known yet. Raises UserError where the recipe has no settings for the data set.
    """
    if name is None:
        name = next(known for known, recipes in RECIPES.items() if dataset in recipes)
    if dataset not in RECIPES[name]:
        having = [known for known, recipes in RECIPES.items() if dataset in recipes]
        raise UserError(f"--recipe {name}: has no settings for {dataset}; use {' or '.join(having)}")
    return name, RECIPES[name][dataset].settings(not weakly_supervised, positives)
