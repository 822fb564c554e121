"""Which pairs of photos are worth matching."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, UInt8

Pair = tuple[int, int]
"""Two rows of photos, the smaller first."""

NUM_WORDS = 64
"""Centres that descriptors are compared with."""

SAMPLES_PER_WORD = 256
"""Descriptors from which each centre is learned."""

KMEANS_STEPS = 10


def exhaustive_pairs(num_photos: int) -> list[Pair]:
    """All pairs, in order."""
    return [(a, b) for a in range(num_photos) for b in range(a + 1, num_photos)]


def sequential_pairs(num_photos: int, overlap: int) -> list[Pair]:
    """Each photo with the next `overlap` ones, and with those 2, 4, 8, 16 ... places on.

    The far ones are few, and tie a long walk together where it passes the same place again.
    """
    steps = set(range(1, overlap + 1)) | {2**power for power in range(num_photos.bit_length())}
    return sorted((a, a + step) for step in steps for a in range(num_photos - step))


def similar_pairs(
    descriptors: Sequence[UInt8[np.ndarray, "_feature width"]], neighbours: int, seed: int
) -> list[Pair]:
    """Each photo with the `neighbours` photos that look most like it.

    Photos are compared by their VLAD (Jegou et al. 2010): the sum of what is left of the
    descriptors after their nearest centre is subtracted, normalised per centre and as a whole.
    """
    num_photos = len(descriptors)
    vectors = _vlad(descriptors, seed)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(neighbours, num_photos - 1)]
    return sorted({(min(a, int(b)), max(a, int(b))) for a in range(num_photos) for b in nearest[a]})


def _vlad(
    descriptors: Sequence[UInt8[np.ndarray, "_feature width"]], seed: int
) -> Float32[np.ndarray, "photo length"]:
    every = np.concatenate(descriptors)
    if not len(every):
        return np.zeros((len(descriptors), 1), np.float32)
    generator = np.random.default_rng(seed)
    size = min(len(every), NUM_WORDS * SAMPLES_PER_WORD)
    sample = every[np.sort(generator.choice(len(every), size, replace=False))].astype(np.float32)
    words = _kmeans(sample)
    vectors = np.zeros((len(descriptors), len(words), every.shape[1]), np.float32)
    for vector, found in zip(vectors, descriptors, strict=True):
        points = found.astype(np.float32)
        word = _nearest(points, words)
        np.add.at(vector, word, points - words[word])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-6)
    flat = vectors.reshape(len(descriptors), -1)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _kmeans(points: Float32[np.ndarray, "point width"]) -> Float32[np.ndarray, "word width"]:
    """Lloyd's algorithm from evenly spaced points; an empty centre stays where it is."""
    start = np.linspace(0, len(points) - 1, min(NUM_WORDS, len(points))).astype(int)
    words = points[start]
    for _ in range(KMEANS_STEPS):
        word = _nearest(points, words)
        sums = np.zeros_like(words)
        np.add.at(sums, word, points)
        counts = np.bincount(word, minlength=len(words)).astype(np.float32)[:, None]
        words = np.where(counts > 0, sums / np.maximum(counts, 1), words)
    return words


def _nearest(
    points: Float32[np.ndarray, "point width"], words: Float32[np.ndarray, "word width"]
) -> np.ndarray:
    """Row of the nearest centre of each point."""
    return np.argmin((words * words).sum(1) - 2 * (points @ words.T), axis=1)
