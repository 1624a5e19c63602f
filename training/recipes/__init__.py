"""Recipes: functions that return the whole typed configuration of a training run, and their registry."""

from training.recipes.recipe import Recipe, TrainingSetup
from training.recipes.registry import create_recipe, list_recipes, register_recipe

__all__ = ["Recipe", "TrainingSetup", "create_recipe", "list_recipes", "register_recipe"]
