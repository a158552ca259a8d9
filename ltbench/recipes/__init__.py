"""Recipes: named settings of training, as data."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml

from ltbench.errors import UsageError
from ltbench.registry import normalise, suggest
from ltbench.settings import Settings, read_settings


def is_file(name: str) -> bool:
    """Whether a recipe is given by the path of a YAML file."""
    return name.endswith((".yaml", ".yml"))


def recipe_names() -> list[str]:
    """Names of the recipes in the package."""
    folder = resources.files("ltbench.recipes")
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str, *, with_summary: bool = False) -> Settings:
    """The settings of a named recipe, or of a YAML file given by path."""
    if is_file(name):
        settings = read_settings(Path(name))
    elif normalise(name) in recipe_names():
        text = (resources.files("ltbench.recipes") / f"{normalise(name)}.yaml").read_text("utf-8")
        settings = yaml.safe_load(text)
    else:
        raise UsageError(suggest("recipe", name, recipe_names()))
    if not with_summary:
        settings.pop("summary", None)
    return settings
