"""Published training settings, as data: what a recipe says for each data set and number of pixel masks."""

from dataclasses import dataclass, replace

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


# Tang et al. 2024, section IV.B. The paper leaves theta open; these are the values of Božič et al.
PAPER = {
    "dagm": Recipe(epochs=70, lr=0.05),
    "ksdd": Recipe(epochs=50, lr=0.01),
}

# The published settings of Božič et al. 2021 where some images have masks; without any, see `_mixsup`.
MIXSUP = {
    "dagm": Recipe(epochs=70, lr=0.05, gradient_stop="on"),
    "ksdd": Recipe(epochs=50, lr=1.0, theta=0.01, gradient_stop="on"),
}

# For trying things out in minutes on a CPU. A batch sums the gradients of its images, hence the clipping.
QUICK = {
    "synthetic": Recipe(epochs=5, lr=0.3, theta=0.1, batch_size=8, lr_schedule="cosine", grad_clip=1.0),
    # The paper's steps for DAGM: on a folder of DAGM images (256x256, 12 of 36 defects with masks) they rank all
    # validation images right within two epochs. The schedule lets the last epochs settle.
    "folder": Recipe(epochs=30, lr=0.05, lr_schedule="cosine"),
}

RECIPES = {"paper": PAPER, "mixsup": MIXSUP, "quick": QUICK}


def find_recipe(name: str | None, dataset: str, weakly_supervised: bool) -> tuple[str, Recipe]:
    """Name and settings of a recipe; without a name, the first that has the data set.

    weakly_supervised: no defective training image has a mask (N = 0). Raises UserError where the recipe has no
    settings for the data set.
    """
    if name is None:
        name = next(known for known, recipes in RECIPES.items() if dataset in recipes)
    if dataset not in RECIPES[name]:
        having = [known for known, recipes in RECIPES.items() if dataset in recipes]
        raise UserError(f"--recipe {name}: has no settings for {dataset}; use {' or '.join(having)}")
    recipe = RECIPES[name][dataset]
    if name == "mixsup" and weakly_supervised:
        recipe = replace(recipe, loss_weights="constant")
        if dataset == "ksdd":
            recipe = replace(recipe, lr=0.01, theta=1.0)
    return name, recipe
