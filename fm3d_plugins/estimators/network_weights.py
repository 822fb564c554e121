"""The weights of estimators by networks: which are meant, whether they may be had, and for what."""

from dataclasses import dataclass

from fm3d_plugins.checkpoints import CheckpointFile, locate, require_obtainable, weights_meant
from fm3d_plugins.estimators.base import Estimator
from fm3d_plugins.estimators.dense.weights_identity import weights_sha256
from fm3d_plugins.nn.sizes import TRAINED_WITH, TrainedWith, stored_sizes
from fm3d_plugins.progress import say


@dataclass(frozen=True)
class NetworkEstimator(Estimator):
    """An estimator by a network. The default of a subclass's `weights` are its official ones."""

    weights: str = ""
    """official: those published; small: those that come with this package; or published weights by
    name (`fm3d weights list`), or a file or folder."""
    commercial_only: bool = False
    """Refuse weights whose licence forbids commercial use."""

    @property
    def named_weights(self) -> str:
        """The name or path that `weights` means.

        Raises:
            ValueError: No small weights of this estimator come with the package.
        """
        return weights_meant(self.weights, self.name, type(self).weights)

    def check_weights(self) -> None:
        """Refuse weights that cannot be had; those that are gone may have left their estimate.

        Raises:
            ValueError, FileNotFoundError, ImportError: As of all estimators.
        """
        super().check_weights()
        if self.named_weights and not weights_sha256(self.named_weights):
            require_obtainable(self.named_weights, commercial_only=self.commercial_only)

    def identity(self) -> dict:
        """What `find_cameras` depends on besides the photos, as JSON values."""
        identity = super().identity()
        for name in ("device", "commercial_only"):
            del identity["options"][name]
        identity["options"]["weights"] = self.named_weights
        return identity | {"weights_sha256": weights_sha256(self.named_weights)}

    def located_weights(self) -> CheckpointFile:
        """The file of the weights. Of small ones a line says what they are.

        Raises:
            ValueError, FileNotFoundError: As `checkpoints.locate`.
        """
        file = locate(self.named_weights, commercial_only=self.commercial_only)
        trained = trained_with(file)
        if file.published is not None and file.published.comes_with_package and trained:
            say(
                f"{self.name} with small weights, trained on synthetic rooms of "
                f"{trained.image_size} pixels: cameras are rough. Better ones: --weights official."
            )
        return file


def trained_with(file: CheckpointFile) -> TrainedWith | None:
    """The images that weights were trained with, where their file tells.

    Raises:
        ValueError: The file is damaged.
    """
    return stored_sizes(file.path, TRAINED_WITH, TrainedWith)
