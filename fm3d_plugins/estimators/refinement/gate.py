"""Whether refined cameras may be believed, judged without any reference.

"Accepted" means "not worse than the prior", not "good": reprojection errors cannot tell, as they
stay small while a few false matches bend a scene. What tells is whether matches that took no part
fit as well, whether cameras had to move further than was believed possible, and how far off the
prior was at all.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from fm3d_plugins.errors import listed

State = Literal["refined", "partly verified", "rejected"]

LEAST_OBSERVATIONS = 15
"""Of a view, below which matches say nothing of it."""

GOOD_PIXELS, GOOD_SHARE = 2.0, 0.85
"""So many pixels off at most must this share of the held-out matches be."""

MEAN_Z, LARGEST_Z = 4.0, 8.0
"""Turns of the views from their priors, in standard deviations about one axis; 1.5 is normal."""

WORST_NOISE = 4.0
"""Degrees by which a prior may contradict the matches and still be one."""


@dataclass(frozen=True)
class Report:
    """What became of the cameras, and the numbers by which it was decided."""

    state: State
    reason: str
    """One sentence."""
    verified: int
    """Views with enough observations."""
    views: int
    unverified: tuple[str, ...]
    """The other views' photos; they keep the cameras that they had."""
    noise_degrees: float
    """Median error of matches under the prior."""
    held_out_share: float
    """Of held-out matches that are near their epipolar lines; nan without any."""
    mean_z: float
    max_z: float
    rms: float
    """Of all observations, pixels of the photos as they were worked on."""
    observations: int
    focal_change: float
    """Largest factor of a focal length, minus 1."""

    @property
    def is_accepted(self) -> bool:
        """Whether the refined cameras stand."""
        return self.state != "rejected"

    @property
    def headline(self) -> str:
        """The state with its numbers."""
        counted = f" {self.verified}/{self.views}" if self.state == "partly verified" else ""
        return f"{self.state}{counted}"

    def values(self) -> dict[str, object]:
        """All of it as JSON values."""
        return {
            key: None if isinstance(value, float) and not np.isfinite(value) else value
            for key, value in (
                asdict(self) | {"headline": self.headline, "unverified": list(self.unverified)}
            ).items()
        }


def judge(
    names: tuple[str, ...],
    observations: Int64[np.ndarray, " view"],
    turns_degrees: Float64[np.ndarray, " view"],
    turn_spread_degrees: float,
    numbers: Mapping[str, float],
    held_out: Float64[np.ndarray, " match"],
) -> Report:
    """Decide.

    Args:
        names: Of the views' photos.
        observations: Of each view.
        turns_degrees: From each view's prior.
        turn_spread_degrees: Standard deviation of the prior about one axis.
        numbers: `noise_degrees`, `rms` and `focal_change` of the report.
        held_out: Errors of held-out matches, pixels.
    """
    verified = observations >= LEAST_OBSERVATIONS
    z = turns_degrees[verified] / turn_spread_degrees
    share = float((held_out < GOOD_PIXELS).mean()) if len(held_out) else float("nan")
    mean_z, max_z = (float(z.mean()), float(z.max())) if len(z) else (float("nan"),) * 2
    faults = _faults(numbers["noise_degrees"], share, mean_z, max_z, verified)
    unverified = tuple(name for name, good in zip(names, verified, strict=True) if not good)
    state: State = "rejected" if faults else "partly verified" if unverified else "refined"
    reason = "; ".join(faults)
    if state == "partly verified":
        reason = f"hardly any match for {listed(list(unverified), 10)}"
    return Report(
        state=state,
        reason=reason or "matches that took no part agree, and no camera moved too far",
        verified=int(verified.sum()),
        views=len(names),
        unverified=unverified,
        held_out_share=share,
        mean_z=mean_z,
        max_z=max_z,
        observations=int(observations.sum()),
        **numbers,
    )


def _faults(
    noise: float, share: float, mean_z: float, max_z: float, verified: Bool[np.ndarray, " view"]
) -> list[str]:
    if verified.sum() < 2:
        return [f"{int(verified.sum())} of {len(verified)} photos have enough matches"]
    faults = []
    if not noise <= WORST_NOISE:
        faults.append(f"the cameras contradict the matches by {noise:.1f} degrees")
    if share < GOOD_SHARE:
        faults.append(f"only {share:.0%} of the held-out matches are within {GOOD_PIXELS:g} px")
    if mean_z > MEAN_Z or max_z > LARGEST_Z:
        faults.append(f"views had to turn by {mean_z:.1f} (mean) and {max_z:.1f} deviations")
    return faults
