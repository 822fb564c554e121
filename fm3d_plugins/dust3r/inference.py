"""DUSt3R as a function: photos and pairs of them to pointmaps, every photo encoded once."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from fm3d_plugins.checkpoints import CheckpointFile, load, training_arguments
from fm3d_plugins.dust3r import configuration
from fm3d_plugins.dust3r.network import DUSt3R, EncodedPhotos, PairPrediction
from fm3d_plugins.dust3r.weights import load_official
from fm3d_plugins.files import naming_damage
from fm3d_plugins.nn.sizes import SIZES_EXPECTED, stored_text

PAIRS_AT_ONCE_CUDA, PAIRS_AT_ONCE_CPU = 8, 4
"""Pairs that the decoders work on together. The dense heads, which take most memory, have a bound
of their own (HEAD_IMAGES_PER_PASS_CPU)."""
HUB_CONFIG = "config.json"
"""Beside the safetensors file in a repository of the hub: arguments of the published class."""

Image = Float[Tensor, "3 height width"]
Pair = tuple[int, int]


def architecture(path: Path) -> DUSt3R:
    """The network that a checkpoint is of, on the meta device.

    As the file itself says it, in a torch file's options or a safetensors file's metadata; else
    as a config.json beside it does; else the published sizes for 512 pixels, with the kind of head
    that the tensors' names tell.

    Raises:
        ValueError: The file's own description of its sizes cannot be used.
    """
    with naming_damage(path, SIZES_EXPECTED), torch.device("meta"):
        return DUSt3R(**_sizes(path))


def load_network(file: CheckpointFile, precision: torch.dtype, device: torch.device) -> DUSt3R:
    """The network with its weights, ready to predict.

    Args:
        precision: Of the matrices of the encoder and the decoders.

    Raises:
        ValueError: The file is damaged or of another network.
    """
    network = architecture(file.path)
    load_official(network, load(file), dtype=precision)
    return prepared(network, device)


def prepared(network: DUSt3R, device: torch.device) -> DUSt3R:
    """The same network on a device, ready to predict and not to train."""
    network.to(device).eval().requires_grad_(False)
    for head in (network.downstream_head1, network.downstream_head2):
        # As their maps lie: a dense head then takes 1.0 s instead of 1.3 s for 512 x 384 pixels.
        head.to(memory_format=torch.channels_last)
    return network


class PhotoEncodings:
    """Tokens of photos, computed when they are asked for and kept on the CPU.

    A network in bfloat16 has its tokens kept in bfloat16 too.

    Args:
        images_of: Reads a photo by its number: RGB in [-1, 1], sides multiples of the patch size.
        kept: Most photos whose tokens are kept; those not asked for the longest are computed
            again when needed. None: all are kept.
        photos_at_once: Photos that are encoded together; by default 8, or 4 on a CPU.
        sizes: (height, width) of all photos by number, where known: otherwise each is read once
            more to learn it.
    """

    def __init__(
        self,
        network: DUSt3R,
        images_of: Callable[[int], Image],
        *,
        kept: int | None = None,
        photos_at_once: int | None = None,
        sizes: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.network = network
        self.kept = kept
        self.device = next(network.parameters()).device
        self.photos_at_once = photos_at_once or default_pairs_at_once(self.device)
        self._images_of = images_of
        self._dtype = network.decoder_embed.weight.dtype
        self._tokens: OrderedDict[int, Float[Tensor, "token channel"]] = OrderedDict()
        patch = network.config.patch_size
        self._grids: dict[int, tuple[int, int]] = {
            photo: (height // patch, width // patch) for photo, (height, width) in enumerate(sizes)
        }
        if (kept is not None and kept < 0) or self.photos_at_once < 1:
            raise ValueError(
                f"Found kept={kept} and photos_at_once={self.photos_at_once}; expected 0 or more, "
                "and 1 or more."
            )

    def grid_of(self, photo: int) -> tuple[int, int]:
        """Patches in a column and in a row of a photo; reads it if that is not known."""
        if photo not in self._grids:
            self._image(photo)
        return self._grids[photo]

    def of(self, photos: Sequence[int]) -> EncodedPhotos:
        """Tokens of photos of one size, in this order, on the network's device."""
        grids = {self.grid_of(photo) for photo in photos}
        if len(grids) != 1:
            raise ValueError(
                f"{len(photos)} photos of {len(grids)} sizes were asked for together; expected "
                "photos of one size. Ask for those of each size by themselves."
            )
        tokens: dict[int, Float[Tensor, "token channel"]] = {
            photo: self._tokens[photo] for photo in photos if photo in self._tokens
        }
        missing = [photo for photo in dict.fromkeys(photos) if photo not in tokens]
        for start in range(0, len(missing), self.photos_at_once):
            part = missing[start : start + self.photos_at_once]
            tokens |= dict(zip(part, self._encoded(part), strict=True))
        for photo in photos:
            self._keep(photo, tokens[photo])
        stacked = torch.stack([tokens[photo] for photo in photos])
        return EncodedPhotos(stacked.to(self.device), grids.pop())

    def _encoded(self, photos: Sequence[int]) -> list[Float[Tensor, "token channel"]]:
        images = torch.stack([self._image(photo) for photo in photos]).to(self.device)
        with torch.inference_mode():
            encoded = self.network.encode(images)
            return list(encoded.tokens.to("cpu", self._dtype).unbind())

    def _keep(self, photo: int, tokens: Float[Tensor, "token channel"]) -> None:
        """Remember a photo's tokens as the last ones asked for, and forget those before."""
        self._tokens[photo] = tokens
        self._tokens.move_to_end(photo)
        while self.kept is not None and len(self._tokens) > self.kept:
            self._tokens.popitem(last=False)

    def _image(self, photo: int) -> Image:
        image = self._images_of(photo)
        size = self.network.config.patch_size
        if image.ndim != 3 or image.shape[0] != 3 or image.shape[1] % size or image.shape[2] % size:
            raise ValueError(
                f"Photo {photo} has the shape {list(image.shape)}; expected 3 x height x width "
                f"with sides that are multiples of {size}. Scale or crop it."
            )
        self._grids[photo] = (image.shape[1] // size, image.shape[2] // size)
        return image


def decode_pairs(
    encodings: PhotoEncodings,
    pairs: Sequence[Pair],
    *,
    pairs_at_once: int | None = None,
    report: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, int, PairPrediction]]:
    """Points of pairs of photos on the CPU, without a batch axis, made when they are asked for.

    Pairs of equal sizes come together, else in the given order; where not all tokens are kept,
    pairs among few photos come together. (i, j) and (j, i) are two pairs, with nothing
    in common but the photos' tokens.

    Args:
        pairs: First and second photo; the points are in the first one's camera frame.
        pairs_at_once: By default 8, or 4 on a CPU. Bounds the memory and has no other influence.
        report: Gets the number of pairs done so far.

    Raises:
        ValueError: There is no pair, or a photo's sides are not multiples of the patch size.
    """
    at_once = default_pairs_at_once(encodings.device) if pairs_at_once is None else pairs_at_once
    if not pairs or at_once < 1:
        raise ValueError(
            f"Found {len(pairs)} pairs and pairs_at_once={at_once}; expected at least 1 of both. "
            "A single photo has no pair: use two or more."
        )
    return _decoded(encodings, pairs, at_once, report)


def _decoded(
    encodings: PhotoEncodings,
    pairs: Sequence[Pair],
    at_once: int,
    report: Callable[[int], None] | None,
) -> Iterator[tuple[int, int, PairPrediction]]:
    done = 0
    for batch in _batches(encodings, pairs, at_once):
        firsts, seconds = zip(*batch, strict=True)
        with torch.inference_mode():
            both = encodings.of(firsts), encodings.of(seconds)
            predicted = encodings.network.decode(*both)
        done += len(batch)
        if report:
            report(done)
        for row, (first, second) in enumerate(batch):
            yield first, second, _row_on_cpu(predicted, row)


def photo_descriptors(
    encodings: PhotoEncodings, photos: Sequence[int]
) -> Float[Tensor, "photo channel"]:
    """The mean of each photo's tokens, float32, on the CPU: photos of one place have near ones.

    The tokens are those that `decode_pairs` reads afterwards, computed once. Photos may differ in
    size.
    """
    by_photo = {}
    for group in _by_size(encodings, photos):
        for start in range(0, len(group), encodings.photos_at_once):
            part = group[start : start + encodings.photos_at_once]
            means = encodings.of(part).tokens.float().mean(dim=1).cpu()
            by_photo |= dict(zip(part, means, strict=True))
    return torch.stack([by_photo[photo] for photo in photos]).clone()


def _by_size(encodings: PhotoEncodings, photos: Sequence[int]) -> list[list[int]]:
    """The photos in groups of equal size."""
    groups: dict[tuple[int, int], list[int]] = {}
    for photo in dict.fromkeys(photos):
        groups.setdefault(encodings.grid_of(photo), []).append(photo)
    return list(groups.values())


def _batches(
    encodings: PhotoEncodings, pairs: Sequence[Pair], at_once: int
) -> Iterator[Sequence[Pair]]:
    """Pairs whose first photos and whose second photos have equal sizes, a few at a time."""
    groups: dict[tuple[tuple[int, int], tuple[int, int]], list[Pair]] = {}
    for first, second in _ordered(pairs, encodings.kept):
        sizes = encodings.grid_of(first), encodings.grid_of(second)
        groups.setdefault(sizes, []).append((first, second))
    for group in groups.values():
        for start in range(0, len(group), at_once):
            yield group[start : start + at_once]


def _ordered(pairs: Sequence[Pair], kept: int | None) -> Sequence[Pair]:
    """The pairs in an order in which photos are seldom encoded again."""
    photos = sorted({photo for pair in pairs for photo in pair})
    if kept is None or kept >= len(photos):
        return pairs
    # Two blocks of photos, whose pairs are made one after the other, fit among those kept. Within
    # two blocks all of the first meet one of the second: the first block, which comes next too, is
    # then always what was asked for last.
    block = max(1, kept // 2)
    place = {photo: number // block for number, photo in enumerate(photos)}
    return sorted(pairs, key=lambda pair: (place[pair[0]], place[pair[1]], pair[1]))


def _row_on_cpu(predicted: PairPrediction, row: int) -> PairPrediction:
    """One pair of a batch, in tensors of its own, which gradients may be taken through."""
    values = {field.name: getattr(predicted, field.name)[row] for field in fields(PairPrediction)}
    own = {
        name: value.float().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in values.items()
    }
    return PairPrediction(**own)


def default_pairs_at_once(device: torch.device) -> int:
    """Pairs, or photos, that the network works on at once."""
    return PAIRS_AT_ONCE_CUDA if device.type == "cuda" else PAIRS_AT_ONCE_CPU


def _sizes(path: Path) -> dict:
    """`DUSt3R`'s arguments, from whatever describes the checkpoint."""
    options = training_arguments(path)
    if isinstance(options.get("model"), str):
        return configuration.architecture_of(options["model"])
    text = stored_text(path, configuration.METADATA_KEY)
    if text is not None:
        return configuration.from_text(text)
    if path.suffix == ".safetensors":
        beside = path.with_name(HUB_CONFIG)
        if beside.is_file():
            return configuration.from_hub(beside)
    is_dense = any(name.startswith("downstream_head1.dpt.") for name in load(path))
    return {"head": "dpt" if is_dense else "linear"}
