"""How well matches and the cameras from them agree with the truth."""

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.cell_matching.losses import true_cells
from fm3d_plugins.cell_matching.path import Matched
from fm3d_plugins.cell_matching.types import places_of_cells
from fm3d_plugins.data.view_batch import ViewBatch
from fm3d_plugins.network_training.scores import pose_scores


def path_scores(matched: Matched, batch: ViewBatch) -> dict[str, Float[Tensor, " scene"]]:
    """Of each scene.

    `auc30_guess`, `auc30_first`: percent, of the cameras before and after the adjustment;
    `match_error`: the median error of matches, pixels, of cells that are seen; nan if none is.
    """
    scores = {}
    for name, estimate in (("guess", matched.guess), ("first", matched.estimate)):
        pairs = zip(estimate.first_from_camera(), batch.world_from_camera, strict=True)
        each = [pose_scores(own, true)["auc30"] for own, true in pairs]
        scores[f"auc30_{name}"] = torch.tensor(each)
    rows, columns = matched.grid
    places, is_seen, _ = true_cells(batch, rows, columns)
    true = places_of_cells(places, rows, columns)
    errors = (matched.matches.places[:, 1:] - true).norm(dim=-1) * max(batch.size) / 2
    scores["match_error"] = torch.stack(
        [error[seen].median() if seen.any() else error.new_tensor(torch.nan) for error, seen in
         zip(errors, is_seen, strict=True)]
    ).cpu()  # fmt: skip
    return scores
