"""Which pairs of photos are worth matching."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float32

from fm3d_plugins.backends.pycolmap.features import Descriptors
from fm3d_plugins.photos.similarity import nearest_pairs, similarity_matrix

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


def similar_pairs(descriptors: Sequence[Descriptors], neighbours: int, seed: int) -> list[Pair]:
    """Each photo with the `neighbours` photos that look most like it.

    Photos are compared by their VLAD (Jegou et al. 2010): the sum of what is left of the
    descriptors after their nearest centre is subtracted, normalised per centre and as a whole.
    """
    vectors = torch.from_numpy(_vlad(descriptors, seed))
    return nearest_pairs(similarity_matrix(vectors), neighbours)


def _vlad(descriptors: Sequence[Descriptors], seed: int) -> Float32[np.ndarray, "photo length"]:
    from scipy.cluster.vq import vq

    every = np.concatenate(descriptors)
    if not len(every):
        return np.zeros((len(descriptors), 1), np.float32)
    generator = np.random.default_rng(seed)
    size = min(len(every), NUM_WORDS * SAMPLES_PER_WORD)
    sample = every[np.sort(generator.choice(len(every), size, replace=False))].astype(np.float32)
    words = _words(sample)
    vectors = np.zeros((len(descriptors), len(words), every.shape[1]), np.float32)
    for vector, found in zip(vectors, descriptors, strict=True):
        points = found.astype(np.float32)
        word, _ = vq(points, words)
        np.add.at(vector, word, points - words[word])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-6)
    return vectors.reshape(len(descriptors), -1)


def _words(points: Float32[np.ndarray, "point width"]) -> Float32[np.ndarray, "word width"]:
    """Centres by k-means from evenly spaced points; an empty one stays where it is."""
    from scipy.cluster.vq import kmeans2

    start = np.linspace(0, len(points) - 1, min(NUM_WORDS, len(points))).astype(int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Of empty centres.
        words, _ = kmeans2(points, points[start], iter=KMEANS_STEPS, minit="matrix")
    return words
