"""Recipes: functions that return a whole RunConfig. A variant is a function that calls another.

config = cifar10().replaced({"train.num_steps": 100_000})

After a colon, an ablation of the paper: `recipe("digits:eps-l-fixed")`.
"""

from collections.abc import Callable

from ddpm_core.config import RunConfig
from ddpm_core.errors import ConfigError
from ddpm_core.recipes.cascades import digits_4, digits_cascade, digits_upscale
from ddpm_core.recipes.classifier import cifar10_classifier, digits_classifier, mnist_classifier
from ddpm_core.recipes.clip import digits_clip
from ddpm_core.recipes.continuous import (
    cifar10_edm,
    cifar10_edm_augmented,
    cifar10_subvp,
    cifar10_ve,
    cifar10_vp,
    digits_edm,
    digits_few,
    digits_flow,
    digits_vp,
)
from ddpm_core.recipes.guided import adm, adm_classes, glide, glide_small
from ddpm_core.recipes.paper import (
    celebahq,
    cifar10,
    cifar10_classes,
    cifar10_ddim,
    lsun_bedroom,
    lsun_bedroom_large,
    lsun_cat,
    lsun_church,
)
from ddpm_core.recipes.row_2015 import (
    cifar10_2015,
    digits_2015,
    heartbeat,
    mnist_2015,
    swiss_roll,
)
from ddpm_core.recipes.small import (
    digits,
    digits_classes,
    digits_ddim,
    digits_dit,
    fashion_mnist,
    images,
    mnist,
    mnist_classes,
)
from ddpm_core.recipes.table_2 import PAPER_TABLE_2, Table2Row, ablation_runs, ablations

__all__ = [
    "PAPER_TABLE_2",
    "RECIPES",
    "Table2Row",
    "ablation_runs",
    "ablations",
    "cifar10",
    "digits",
    "is_recipe",
    "mnist",
    "recipe",
]

RECIPES: dict[str, Callable[[], RunConfig]] = {
    "digits": digits,
    "digits-dit": digits_dit,
    "digits-classes": digits_classes,
    "digits-classifier": digits_classifier,
    "digits-clip": digits_clip,
    "digits-ddim": digits_ddim,
    "digits-upscale": digits_upscale,
    "digits-4": digits_4,
    "digits-cascade": digits_cascade,
    "digits-vp": digits_vp,
    "digits-flow": digits_flow,
    "digits-edm": digits_edm,
    "digits-few": digits_few,
    "glide-small": glide_small,
    "mnist": mnist,
    "mnist-classes": mnist_classes,
    "mnist-classifier": mnist_classifier,
    "fashion-mnist": fashion_mnist,
    "images": images,
    "heartbeat": heartbeat,
    "swiss-roll": swiss_roll,
    "digits-2015": digits_2015,
    "mnist-2015": mnist_2015,
    "cifar10": cifar10,
    "cifar10-classes": cifar10_classes,
    "cifar10-classifier": cifar10_classifier,
    "cifar10-ddim": cifar10_ddim,
    "cifar10-2015": cifar10_2015,
    "cifar10-vp": cifar10_vp,
    "cifar10-subvp": cifar10_subvp,
    "cifar10-ve": cifar10_ve,
    "cifar10-edm": cifar10_edm,
    "cifar10-edm-augmented": cifar10_edm_augmented,
    "celebahq": celebahq,
    "lsun-bedroom": lsun_bedroom,
    "lsun-bedroom-large": lsun_bedroom_large,
    "lsun-church": lsun_church,
    "lsun-cat": lsun_cat,
    "adm": adm,
    "adm-classes": adm_classes,
    "glide": glide,
}


def is_recipe(target: str) -> bool:
    """Return whether this means a recipe, perhaps with an ablation, and not a file."""
    return target.partition(":")[0] in RECIPES


def recipe(name: str) -> RunConfig:
    """Return the recipe of that name; `digits:eps-l-fixed` is an ablation of `digits`.

    Raises:
        ConfigError: if there is none.
    """
    base, colon, ablation = name.partition(":")
    if base not in RECIPES:
        raise ConfigError(f"no recipe {base!r}; there are {', '.join(RECIPES)}")
    if not colon:
        return RECIPES[base]()
    if ablation not in PAPER_TABLE_2:
        raise ConfigError(
            f"no ablation {ablation!r} of {base}; there are {', '.join(PAPER_TABLE_2)}"
        )
    return ablations(RECIPES[base]())[ablation]
