"""Training: float networks under Gaussian noise, the recipes for them, and finetuning of quantized ones."""

from suite.train.base import TrainSettings, train_base
from suite.train.recipe import RECIPES, Recipe, make_checkpoint, recipe_for

__all__ = ["RECIPES", "Recipe", "TrainSettings", "make_checkpoint", "recipe_for", "train_base"]
