"""The table of steps as a picture."""

from pathlib import Path

import numpy as np
from jaxtyping import Float64

PICTURE = "losses.png"
"""Of a run's folder."""

WINDOWS = 60
"""Parts of a run over each of which the median is drawn."""


def draw_losses(table: Path, picture: Path) -> None:
    """Draw loss and gradient norm of every step, with medians, and steps that were skipped.

    Args:
        table: As `loss_log.StepTable` writes it, with at least one row.
        picture: PNG file to write.
    """
    from matplotlib.figure import Figure

    rows = np.atleast_1d(np.genfromtxt(table, delimiter=",", names=True))
    steps, is_taken = rows["step"], rows["is_taken"] > 0
    figure = Figure(figsize=(8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, name in ((upper, "loss"), (lower, "gradient_norm")):
        values = rows[name]
        axes.plot(steps, values, ".", color="0.75", markersize=2)
        axes.plot(*medians(steps, values), label="median")
        axes.set_ylabel(name.replace("_", " "))
        axes.grid(alpha=0.3)
        if (values[np.isfinite(values)] > 0).all():
            axes.set_yscale("log")
    if not is_taken.all():
        skipped = steps[~is_taken], rows["gradient_norm"][~is_taken]
        lower.plot(*skipped, "x", color="tab:red", label="skipped")
    lower.legend()
    lower.set_xlabel("step")
    figure.savefig(picture, dpi=100)


def medians(
    steps: Float64[np.ndarray, " step"], values: Float64[np.ndarray, " step"]
) -> tuple[Float64[np.ndarray, " part"], Float64[np.ndarray, " part"]]:
    """Mean step and median value of equal parts of a run; what is not finite is left out."""
    is_finite = np.isfinite(values)
    steps, values = steps[is_finite], values[is_finite]
    parts = np.array_split(np.arange(len(steps)), min(WINDOWS, len(steps)) or 1)
    some = [part for part in parts if len(part)]
    return (
        np.array([steps[part].mean() for part in some]),
        np.array([np.median(values[part]) for part in some]),
    )
