"""Which pairs of photos the network sees.

A pair (i, j) is ordered: the network's points of both photos lie in the camera frame of photo i, so
(j, i) is another prediction.

**Departure:** the authors' `make_pairs` pairs a photo with itself where the window reaches all
photos, returns no pairs for a name it does not know, and leaves the order of windowed pairs to
chance. Here a photo is never paired with itself, an unknown name is an error, and windowed pairs
are sorted.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.errors import listed
from fm3d_plugins.geometry.neighbours import connected_parts
from fm3d_plugins.photos.similarity import nearest_pairs

Pair = tuple[int, int]
"""Rows of two different photos; the first one's camera is the frame of the prediction."""

DEFAULT_WINDOW = 3
"""Of swin and logwin, as the authors have it."""

DEFAULT_NEIGHBOURS = 10
"""Photos with which retrieval pairs each photo, unless its name says another number."""

GRAPHS = "complete, swin[-k][-noncyclic], logwin[-k][-noncyclic], oneref[-r] or retrieval[-k]"

_NAMED_GRAPH = re.compile(
    r"(?P<kind>complete)|(?P<window>swin|logwin)(-(?P<size>[1-9]\d*))?(?P<open>-noncyclic)?"
    r"|(?P<star>oneref)(-(?P<reference>\d+))?|(?P<like>retrieval)(-(?P<nearest>[1-9]\d*))?"
)


@dataclass(frozen=True)
class PairGraph:
    """A rule by which photos are paired, whatever their number."""

    kind: Literal["complete", "swin", "logwin", "oneref", "retrieval"]
    """complete: each with each. swin: each with the next ones by order. logwin: each with those
    1, 2, 4, ... places away. oneref: one with each. retrieval: each with those most like it."""
    number: int = 0
    """swin: how many next ones; logwin: how many powers of two; oneref: the row of the one photo;
    retrieval: how many neighbours. Without meaning for complete."""
    is_cyclic: bool = True
    """swin and logwin: whether the last photo is followed by the first."""

    @classmethod
    def from_name(cls, name: str) -> "PairGraph":
        """Read the name of a graph.

        Args:
            name: complete, swin[-k][-noncyclic] and logwin[-k][-noncyclic] (k is 3 if not given),
                oneref[-r] (r is 0) or retrieval[-k] (k is 10).

        Raises:
            ValueError: There is no such graph.
        """
        found = _NAMED_GRAPH.fullmatch(name)
        if found is None:
            raise ValueError(
                f"The pair graph {name!r} is unknown. Expected {GRAPHS}, with whole numbers for k "
                "(from 1) and r (from 0). Correct the name."
            )
        if found["window"]:
            size = int(found["size"] or DEFAULT_WINDOW)
            kind = "swin" if found["window"] == "swin" else "logwin"
            return cls(kind, size, is_cyclic=not found["open"])
        if found["star"]:
            return cls("oneref", int(found["reference"] or 0))
        if found["like"]:
            return cls("retrieval", int(found["nearest"] or DEFAULT_NEIGHBOURS))
        return cls("complete")

    @property
    def needs_similarity(self) -> bool:
        """Whether `pairs` asks how alike photos are."""
        return self.kind == "retrieval"

    def pairs(
        self, num_photos: int, similarity: Float[Tensor, "photo photo"] | None = None
    ) -> list[Pair]:
        """Each pair once, in one direction; see `symmetrised`.

        Args:
            num_photos: At least 2.
            similarity: Of each photo with each other, larger is more alike; for retrieval only.

        Returns:
            In the authors' order for complete (the higher row first) and oneref (the reference
            first); otherwise sorted, the smaller row first.

        Raises:
            ValueError: Fewer than two photos, no such reference, or a similarity that is missing,
                of another size, or without effect.
        """
        if num_photos < 2:
            raise ValueError(
                f"Found {num_photos} photos. Expected at least 2, as the network sees pairs. "
                "Add photos."
            )
        if (similarity is None) == self.needs_similarity:
            state = "missing" if similarity is None else "given, but has no effect"
            raise ValueError(
                f"The similarity of photos is {state} for the pair graph {self.kind}. Expected it "
                "for retrieval and for no other graph."
            )
        if similarity is not None:
            return retrieved_pairs(similarity, self.number, num_photos)
        if self.kind == "complete":
            return [(i, j) for i in range(num_photos) for j in range(i)]
        if self.kind == "oneref":
            if self.number >= num_photos:
                raise ValueError(
                    f"The pair graph oneref-{self.number} names a photo that is not there. "
                    f"Expected a row from 0 to {num_photos - 1}. Lower the number."
                )
            return [(self.number, other) for other in range(num_photos) if other != self.number]
        # More steps than photos, or powers of two modulo their number, only repeat themselves.
        count = min(self.number, num_photos)
        steps = [2**n if self.kind == "logwin" else n + 1 for n in range(count)]
        return _windowed(num_photos, steps, self.is_cyclic)


def retrieved_pairs(
    similarity: Float[Tensor, "photo photo"], neighbours: int, num_photos: int
) -> list[Pair]:
    """Each photo with those most like it, and a spanning tree of the most alike to connect all.

    Args:
        similarity: Larger is more alike, of any finite range; its two triangles are averaged and
            its diagonal has no meaning.
        neighbours: Of each photo, at least 1. It may have more: those whose neighbour it is.

    Returns:
        Sorted, the smaller row first; at most (neighbours + 1) * photos.

    Raises:
        ValueError: The similarity is of another number of photos, or not finite.
    """
    from scipy.sparse.csgraph import minimum_spanning_tree

    if similarity.shape != (num_photos, num_photos) or not bool(similarity.isfinite().all()):
        raise ValueError(
            f"The similarity is {list(similarity.shape)} with "
            f"{int((~similarity.isfinite()).sum())} values that are not finite. Expected a finite "
            f"number for each two of {num_photos} photos."
        )
    symmetric = (similarity + similarity.T).detach().double().cpu() / 2
    alike = symmetric.numpy()
    # 0 is no edge in scipy's graphs, so distances begin above it.
    distance = alike.max() - alike + max(1.0, float(np.ptp(alike)))
    np.fill_diagonal(distance, 0)
    tree = minimum_spanning_tree(distance).tocoo()
    branches = zip(tree.row.tolist(), tree.col.tolist(), strict=True)
    pairs = nearest_pairs(symmetric, neighbours)
    return sorted({*pairs, *(_ordered(i, j) for i, j in branches)})


def symmetrised(pairs: Sequence[Pair]) -> list[Pair]:
    """All pairs, then all of them the other way round."""
    return [*pairs, *((j, i) for i, j in pairs)]


def require_connected(pairs: Iterable[Pair], names: Sequence[str]) -> None:
    """Refuse pairs that do not tie all photos together: their parts could not be aligned.

    Args:
        names: Of all photos, by row.

    Raises:
        ValueError: With the photos of the smaller parts.
    """
    edges = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    part = connected_parts(edges, len(names))
    num_parts = int(part.max()) + 1
    if num_parts == 1:
        return
    largest = np.bincount(part).argmax()
    away = [name for name, its in zip(names, part.tolist(), strict=True) if its != largest]
    raise ValueError(
        f"The pairs leave {len(names)} photos in {num_parts} parts that no pair connects: "
        f"{listed(away)} ({len(away)} of them) have no tie to "
        f"{names[int(np.argmax(part == largest))]} and the others of the largest part. Expected "
        "pairs that connect all photos. Use another pair graph (complete and retrieval always "
        "connect) or a larger k."
    )


def _windowed(num_photos: int, steps: Sequence[int], is_cyclic: bool) -> list[Pair]:
    """Each photo with those that lie the given numbers of places further on; never with itself."""
    if is_cyclic:
        reached = ((i, (i + step) % num_photos) for step in steps for i in range(num_photos))
    else:
        reached = ((i, i + step) for step in steps for i in range(num_photos - step))
    return sorted({_ordered(i, j) for i, j in reached if i != j})


def _ordered(i: int, j: int) -> Pair:
    return (i, j) if i < j else (j, i)
