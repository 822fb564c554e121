"""What a method decides about a run once its device is known."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar


@dataclass(frozen=True)
class RunPlan:
    """Decided before the first step, and said."""

    steps: int
    learning_rates: Mapping[str, tuple[float, float]]
    """First and last learning rate of each parameter group."""
    sentence: str
    """Tells the user what was chosen."""
    datamanager: Mapping[str, int] = field(default_factory=dict)
    """Options of the datamanager, where the user leaves them open (None)."""


RecipeT = TypeVar("RecipeT")


def with_options(recipe: RecipeT, options: object) -> RecipeT:
    """A recipe (a dataclass) with the fields of the same name that a config sets, if not None."""
    chosen = {name: value for name, value in vars(options).items() if value is not None}
    own = {name: chosen[name] for name in vars(recipe) if name in chosen}
    return replace(recipe, **own)  # type: ignore[type-var]


def fill_in(options: object, recipe: object) -> None:
    """Give a config the values of the recipe's fields of the same name: config.yml shows them."""
    for name in vars(options):
        if hasattr(recipe, name):
            setattr(options, name, getattr(recipe, name))
