"""What every step did, as a table in a file that survives interruptions."""

import csv
from collections.abc import Mapping
from pathlib import Path

FILE = "steps.csv"
"""Of a run's folder."""


class StepTable:
    """Appends a row for each step; on resuming, rows of steps that are done again are dropped.

    Args:
        path: File; made with its first row.
        first_step: The step that is done next.
    """

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        if not path.is_file():
            return
        with path.open(newline="") as stream:
            rows = list(csv.reader(stream))
        kept = rows[:1] + [row for row in rows[1:] if row and int(row[0]) < first_step]
        with path.open("w", newline="") as stream:
            csv.writer(stream).writerows(kept)

    def add(self, step: int, values: Mapping[str, float | int]) -> None:
        """One row: the step and its values, of the same names each time."""
        is_new = not self.path.is_file()
        with self.path.open("a", newline="") as stream:
            writer = csv.writer(stream)
            if is_new:
                writer.writerow(["step", *values])
            numbers = [f"{v:.6g}" if isinstance(v, float) else v for v in values.values()]
            writer.writerow([step, *numbers])
