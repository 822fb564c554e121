"""Which features photos are matched by, and how results of one kind are told from another's."""

from typing import Annotated, Literal

import tyro

from fm3d_plugins.backends.kornia import WEIGHTS, kornia_version, require_learned
from fm3d_plugins.estimators.dense.weights_identity import weights_sha256

FeatureKind = Literal["sift", "disk", "aliked"]
"""SIFT by COLMAP, or a network's, matched by LightGlue."""

FeaturesOption = Annotated[FeatureKind, tyro.conf.arg(prefix_name=False)]
"""Type of an estimator's option `features`, which is --features everywhere."""


def require_features(kind: FeatureKind) -> None:
    """Refuse features that cannot be had; weights that are gone may have left their result.

    Raises:
        ImportError: kornia is not installed.
        FileNotFoundError: Weights are absent, and the network is switched off.
        ValueError: Weights are not what the hub handed out.
    """
    if kind != "sift" and not all(weights_sha256(name) for name in WEIGHTS[kind]):
        require_learned(kind)


def features_identity(kind: FeatureKind) -> dict:
    """What features and matches depend on besides the photos, as JSON values.

    Raises:
        ImportError: kornia is not installed.
    """
    if kind == "sift":
        return {"features": kind}
    digests = [weights_sha256(name) for name in WEIGHTS[kind]]
    return {"features": kind, "features_sha256": digests, "kornia": kornia_version()}
