"""The damping of Levenberg and Marquardt's steps (Marquardt 1963)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Moved = TypeVar("Moved")


@dataclass
class Damping:
    """Grows tenfold while steps raise the cost, and shrinks after one that does not."""

    least: float
    most: float
    """Beyond which nothing lowers the cost any more."""
    value: float = 1e-6

    @property
    def is_exhausted(self) -> bool:
        """Whether no step was found at the last attempt."""
        return self.value >= self.most

    def descend(
        self, cost: float, attempt: Callable[[float], tuple[Moved, float]]
    ) -> tuple[Moved, float] | None:
        """The first step that does not raise the cost, with its cost; None if there is none.

        A rejected step costs one solution of the equations, which stay.

        Args:
            attempt: Gives the state after the step of a damping, and its cost; nan is refused.
        """
        while not self.is_exhausted:
            moved, moved_cost = attempt(self.value)
            if moved_cost <= cost:
                self.value = max(self.value / 10, self.least)
                return moved, moved_cost
            self.value *= 10
        return None
