"""Which photos a network sees together, when it cannot see all of them at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Chunks:
    """Overlapping chunks of photos; every photo is in one, and shared photos connect them all."""

    members: tuple[tuple[int, ...], ...]
    """Photos of each chunk, in the order in which the network should see them."""
    centrality: tuple[tuple[float, ...], ...]
    """Beside `members`, in (0, 1]: how deep inside its chunk a photo is. A network sees such a
    photo with neighbours on all sides."""
    is_loop: tuple[bool, ...]
    """Chunks that only tie two places of the capture together; they come last."""

    @property
    def num_photos(self) -> int:
        """How many photos there are in all."""
        return 1 + max(max(photos) for photos in self.members)

    @property
    def homes(self) -> tuple[int, ...]:
        """Of every photo, the chunk in which it is most central: its depth is taken from there."""
        best: dict[int, tuple[float, int]] = {}
        for chunk, (photos, depths) in enumerate(zip(self.members, self.centrality, strict=True)):
            for photo, central in zip(photos, depths, strict=True):
                if not self.is_loop[chunk] and (photo not in best or central > best[photo][0]):
                    best[photo] = (central, chunk)
        return tuple(best[photo][1] for photo in range(self.num_photos))


def plan_chunks(
    num_photos: int,
    *,
    chunk_size: int,
    overlap: int,
    order: Sequence[int] | None = None,
    similarity: Float[Tensor, "photo photo"] | None = None,
) -> Chunks:
    """Cut a capture into chunks that overlap.

    A sequence becomes runs of consecutive photos; with a similarity, places that are seen again
    are tied together by extra, smaller chunks, at most one for two chunks. Photos without an order
    are grouped by what looks alike: each group grows from photos of an earlier one.

    Args:
        chunk_size: Most photos of a chunk.
        overlap: Photos that a chunk shares with the one before it, or at least so many if the
            chunks do not fill the capture evenly.
        order: The photos as they were taken. None is 0, 1, 2, ... without a similarity, and no
            order at all with one.
        similarity: How alike two photos look, larger is more; symmetric. See `similarity`.

    Raises:
        ValueError: The numbers do not allow a plan, or order and similarity do not fit them.
    """
    _require_plannable(num_photos, chunk_size, overlap, order, similarity)
    if order is None and similarity is not None and num_photos > chunk_size:
        members = _grow_groups(similarity, chunk_size, overlap)
        centrality = [_closeness(similarity, photos) for photos in members]
    else:
        sequence = list(range(num_photos) if order is None else order)
        members = _cut_sequence(sequence, chunk_size, overlap)
        centrality = [_distance_from_ends(len(photos)) for photos in members]
    loops: list[list[int]] = []
    if similarity is not None:
        side = max(1, min(overlap, chunk_size // 2))
        loops = _find_loops(similarity, members, side, most=max(1, len(members) // 2))
        centrality = [*centrality, *(_closeness(similarity, photos) for photos in loops)]
    return Chunks(
        tuple(map(tuple, [*members, *loops])),
        tuple(map(tuple, centrality)),
        (False,) * len(members) + (True,) * len(loops),
    )


def _require_plannable(
    num_photos: int,
    chunk_size: int,
    overlap: int,
    order: Sequence[int] | None,
    similarity: Float[Tensor, "photo photo"] | None,
) -> None:
    if num_photos < 1 or not 1 <= overlap < chunk_size:
        raise ValueError(
            f"Found {num_photos} photos, chunks of {chunk_size} and an overlap of {overlap}. "
            "Expected at least one photo and an overlap of at least 1, smaller than a chunk. "
            "Give larger chunks or a smaller overlap."
        )
    if order is not None and sorted(order) != list(range(num_photos)):
        raise ValueError(
            f"The order names {len(order)} photos. Expected every number from 0 to "
            f"{num_photos - 1} once. Correct it, or leave it out."
        )
    if similarity is None:
        return
    is_symmetric = similarity.shape == (num_photos, num_photos) and torch.allclose(
        similarity, similarity.T, atol=1e-4
    )
    if not is_symmetric:
        raise ValueError(
            f"The similarity has the shape {tuple(similarity.shape)}. Expected a symmetric matrix "
            f"of {num_photos} x {num_photos} finite numbers, one row for each photo."
        )


def _cut_sequence(sequence: list[int], chunk_size: int, overlap: int) -> list[list[int]]:
    """Runs of equal length whose starts are spread evenly."""
    total = len(sequence)
    if total <= chunk_size:
        return [sequence]
    num_chunks = 1 + -(-(total - chunk_size) // (chunk_size - overlap))
    last = total - chunk_size
    starts = [round(last * chunk / (num_chunks - 1)) for chunk in range(num_chunks)]
    return [sequence[start : start + chunk_size] for start in starts]


def _distance_from_ends(length: int) -> list[float]:
    """1 in the middle of a run, 1 / length or more at its ends."""
    half = (length + 1) / 2
    return [min(place + 1, length - place) / half for place in range(length)]


def _closeness(similarity: Float[Tensor, "photo photo"], photos: Sequence[int]) -> list[float]:
    """Rank of each photo's mean similarity to the others of its chunk: 1 is the most alike."""
    rows = list(photos)
    means = similarity[rows][:, rows].sum(1)
    ranks = means.argsort(stable=True).argsort(stable=True)
    return ((ranks + 1) / len(rows)).tolist()


def _grow_groups(
    similarity: Float[Tensor, "photo photo"], chunk_size: int, overlap: int
) -> list[list[int]]:
    """Groups that start from photos of an earlier group and take in the most similar ones left.

    So each group but the first shares `overlap` photos with one group before it, and all are
    connected.
    """
    is_free = torch.ones(len(similarity), dtype=torch.bool)
    seed = int(similarity.sum(1).argmax())
    group = _grow([seed], similarity, is_free, chunk_size)
    groups = [group]
    is_free[group] = False
    while bool(is_free.any()):
        between = similarity.masked_fill(~is_free[:, None] | is_free[None], -torch.inf)
        newcomer = int(between.max(dim=1).values.argmax())
        parents = [_most_similar(similarity[newcomer], photos, overlap) for photos in groups]
        alike = [float(similarity[newcomer, shared].mean()) for shared in parents]
        shared = parents[alike.index(max(alike))]
        group = _grow([*shared, newcomer], similarity, is_free, chunk_size)
        groups.append(group)
        is_free[group] = False
    return groups


def _grow(
    start: list[int],
    similarity: Float[Tensor, "photo photo"],
    is_free: Bool[Tensor, " photo"],
    chunk_size: int,
) -> list[int]:
    """Add the photos most like the whole group: free ones, and known ones when none is left.

    A known photo makes the group meet another earlier one.
    """
    group = list(start)
    while len(group) < min(chunk_size, len(similarity)):
        outside = torch.ones_like(is_free)
        outside[group] = False
        allowed = is_free & outside
        allowed = allowed if bool(allowed.any()) else outside
        liking = similarity[:, group].mean(dim=1).masked_fill(~allowed, -torch.inf)
        group.append(int(liking.argmax()))
    return group


def _most_similar(liking: Float[Tensor, " photo"], photos: Sequence[int], count: int) -> list[int]:
    """The `count` of these photos with the highest value, in the order given."""
    rows = torch.tensor(list(photos))
    best = liking[rows].sort(descending=True, stable=True).indices[:count]
    return [photos[place] for place in sorted(best.tolist())]


def _find_loops(
    similarity: Float[Tensor, "photo photo"], members: list[list[int]], side: int, most: int
) -> list[list[int]]:
    """Chunks of `side` photos each of two places that look alike and are chunks apart.

    Two photos count as one place if they look as alike as photos of one chunk usually do. After
    a pair is taken, the chunks around both of its ends are at rest.
    """
    if len(members) < 3:
        return []
    holds = _membership(members, len(similarity))
    meets = (holds @ holds.T) > 0
    typical = _typical_similarity(similarity, members)
    near = (holds.T @ meets.float() @ holds) > 0
    score = similarity.masked_fill(near | (similarity < typical), -torch.inf)
    loops = []
    while len(loops) < most and bool(score.max() > -torch.inf):
        a, b = divmod(int(score.argmax()), len(similarity))
        homes = [int(holds[:, photo].argmax()) for photo in (a, b)]
        liking = similarity[a] + similarity[b]
        sides = []
        for photo, home in zip((a, b), homes, strict=True):
            others = [other for other in members[home] if other != photo]
            sides.append(
                sorted([photo, *_most_similar(liking, others, side - 1)], key=members[home].index)
            )
        loops.append([*sides[0], *(photo for photo in sides[1] if photo not in sides[0])])
        around_a, around_b = ((meets[home].float() @ holds) > 0 for home in homes)
        taken = around_a[:, None] & around_b
        score = score.masked_fill(taken | taken.T, -torch.inf)
    return loops


def _membership(members: list[list[int]], num_photos: int) -> Float[Tensor, "chunk photo"]:
    """1 where a chunk holds a photo."""
    holds = torch.zeros(len(members), num_photos)
    for chunk, photos in enumerate(members):
        holds[chunk, photos] = 1
    return holds


def _typical_similarity(
    similarity: Float[Tensor, "photo photo"], members: list[list[int]]
) -> Float[Tensor, ""]:
    """Median similarity of two different photos of one chunk."""
    pairs = torch.cat([torch.combinations(torch.tensor(photos)) for photos in members])
    return similarity[pairs[:, 0], pairs[:, 1]].median()
