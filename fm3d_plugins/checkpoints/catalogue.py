"""Published checkpoints: where they are, what their files are called, and what they permit."""

from dataclasses import dataclass, replace

HUB = "https://huggingface.co"

SMALL, OFFICIAL = "small", "official"
"""Words for weights: those of the method that come with this package, and its published ones."""


@dataclass(frozen=True)
class Licence:
    """What may be done with a checkpoint, in short; the text at `url` is what counts."""

    name: str
    permits: str
    """One line, complete with what it forbids."""
    commercial: bool | None
    """Whether commercial use is permitted; None when it is not known."""
    url: str
    """Where its text is; empty when that is not known."""


UNKNOWN_LICENCE = Licence(
    name="unknown",
    permits="what you may do with it is yours to find out",
    commercial=None,
    url="",
)
"""Of a file that is not one of the catalogue's."""

VGGT_NON_COMMERCIAL = Licence(
    name="non-commercial",
    permits=(
        "research and other non-commercial use; the repository was CC BY-NC 4.0 when these weights "
        "came out, and its README says that they remain non-commercial"
    ),
    commercial=False,
    url=f"{HUB}/facebook/VGGT-1B",
)
VGGT_LICENCE_1 = Licence(
    name="VGGT License v1",
    permits=(
        "commercial use, with acknowledgement in publications; no military, weapons or nuclear "
        "use, no operation of critical infrastructure, transportation or heavy machinery"
    ),
    commercial=True,
    url="https://github.com/facebookresearch/vggt/blob/main/LICENSE.txt",
)
LVSM_NON_COMMERCIAL = Licence(
    name="CC BY-NC-SA 4.0",
    permits=(
        "non-commercial use, shared alike and with attribution; the repository's licence, as none "
        "is given for the weights alone"
    ),
    commercial=False,
    url="https://github.com/Haian-Jin/LVSM/blob/main/LICENSE.md",
)
RAYZER_NON_COMMERCIAL = replace(
    LVSM_NON_COMMERCIAL, url="https://github.com/hwjiang1510/RayZer/blob/main/LICENSE.md"
)
DUST3R_NON_COMMERCIAL = Licence(
    name="CC BY-NC-SA 4.0",
    permits=(
        "non-commercial use, shared alike and with attribution; the terms of the data sets that "
        "they were trained on (Habitat, MegaDepth, ARKitScenes, CO3D, ScanNet++ and others) bind "
        "too"
    ),
    commercial=False,
    url="https://github.com/naver/dust3r/blob/main/LICENSE",
)


OWN_LICENCE = Licence(
    name="Apache-2.0",
    permits="commercial use too; trained by this package, on scenes that it made itself",
    commercial=True,
    url="https://www.apache.org/licenses/LICENSE-2.0",
)
DISK_APACHE = Licence(
    name="Apache-2.0 (DISK)",
    permits="commercial use too, with the licence and notices kept",
    commercial=True,
    url="https://github.com/cvlab-epfl/disk/blob/master/LICENSE",
)
ALIKED_BSD = Licence(
    name="BSD-3-Clause (ALIKED)",
    permits="commercial use too, with the copyright notice kept",
    commercial=True,
    url="https://github.com/Shiaoming/ALIKED/blob/main/LICENSE",
)
LIGHTGLUE_APACHE = Licence(
    name="Apache-2.0 (LightGlue)",
    permits="commercial use too, with the licence and notices kept",
    commercial=True,
    url="https://github.com/cvg/LightGlue/blob/main/LICENSE",
)


@dataclass(frozen=True)
class PublishedCheckpoint:
    """One network's weights in a repository of the Hugging Face hub."""

    name: str
    """`organisation/name` on the hub, and `/variant` where a repository holds several networks."""
    files: tuple[str, ...]
    """File names that hold the weights, the preferred one first."""
    licence: Licence
    is_gated: bool
    """Whether the hub asks for a log-in and the acceptance of terms before it hands them out."""
    num_tensors: int | None
    """None where published files may or may not hold what the network makes itself: then tensors
    are not counted."""
    num_parameters: int
    estimator: str
    """The word of the estimator and method that uses it, or of the option --features."""
    instead: str = "find cameras with sfm, which needs no weights"
    """What to do without it."""
    image_size: int | None = None
    """Long side in pixels of the images that it was trained with, where that is to be kept to."""
    comes_with_package: bool = False
    """Whether its file is part of this package, and on no hub."""

    @property
    def num_bytes(self) -> int:
        """About the file's size: all weights are in float32."""
        return 4 * self.num_parameters

    @property
    def repository(self) -> str:
        """`organisation/name` on the hub."""
        return "/".join(self.name.split("/")[:2])

    def url(self, file: str) -> str:
        """Where a browser gets a file of it."""
        return f"{HUB}/{self.repository}/resolve/main/{file}"


def _dust3r(variant: str, num_tensors: int, num_parameters: int) -> PublishedCheckpoint:
    return PublishedCheckpoint(
        name=f"naver/DUSt3R_ViTLarge_BaseDecoder_{variant}",
        files=("model.safetensors",),
        licence=DUST3R_NON_COMMERCIAL,
        is_gated=False,
        num_tensors=num_tensors,
        num_parameters=num_parameters,
        estimator="dust3r",
        image_size=int(variant[:3]),
    )


def _lvsm(variant: str, file: str, num_tensors: int, num_parameters: int) -> PublishedCheckpoint:
    return PublishedCheckpoint(
        name=f"coast01/LVSM/{variant}",
        files=(file,),
        licence=LVSM_NON_COMMERCIAL,
        is_gated=False,
        num_tensors=num_tensors,
        num_parameters=num_parameters,
        estimator="lvsm",
        image_size=512 if "512" in variant else 256,
    )


def _small(
    method: str, num_tensors: int, num_parameters: int, image_size: int = 64
) -> PublishedCheckpoint:
    """Trained by this package; `docs/training.md` says how."""
    return PublishedCheckpoint(
        name=f"{method}-{SMALL}",
        files=(f"{method}-{SMALL}.safetensors",),
        licence=OWN_LICENCE,
        is_gated=False,
        num_tensors=num_tensors,
        num_parameters=num_parameters,
        estimator=method,
        image_size=image_size,
        comes_with_package=True,
    )


def _features(
    name: str, file: str, licence: Licence, features: str, num_parameters: int
) -> PublishedCheckpoint:
    return PublishedCheckpoint(
        name=name,
        files=(file,),
        licence=licence,
        is_gated=False,
        num_tensors=None,
        num_parameters=num_parameters,
        estimator=features,
        instead="match by SIFT (--features sift), which needs no weights",
    )


_LIGHTGLUE = 11_884_625

_DECODER_ONLY, _ENCODER_DECODER = (197, 170_795_520), (198, 173_154_816)

CATALOGUE: dict[str, PublishedCheckpoint] = {
    checkpoint.name: checkpoint
    for checkpoint in (
        PublishedCheckpoint(
            name="facebook/VGGT-1B",
            files=("model.safetensors", "model.pt"),
            licence=VGGT_NON_COMMERCIAL,
            is_gated=False,
            num_tensors=1797,
            num_parameters=1_256_537_516,
            estimator="vggt",
        ),
        PublishedCheckpoint(
            name="facebook/VGGT-1B-Commercial",
            files=("vggt_1B_commercial.pt",),
            licence=VGGT_LICENCE_1,
            is_gated=True,
            num_tensors=1797,
            num_parameters=1_256_537_516,
            estimator="vggt",
        ),
        _dust3r("512_dpt", num_tensors=1001, num_parameters=571_171_208),
        _dust3r("512_linear", num_tensors=877, num_parameters=532_342_784),
        _dust3r("224_linear", num_tensors=877, num_parameters=532_342_784),
        _lvsm("decoder_only_256", "scene_decoder_only_256.pt", *_DECODER_ONLY),
        _lvsm("encoder_decoder_256", "scene_encoder_decoder_256.pt", *_ENCODER_DECODER),
        _lvsm("decoder_only_512", "lvsm_scene_decoder_only_res512.pt", *_DECODER_ONLY),
        _lvsm("encoder_decoder_512", "lvsm_scene_encoder_decoder_res512.pt", *_ENCODER_DECODER),
        _small("vggt", num_tensors=295, num_parameters=2_259_621),
        _small("dust3r", num_tensors=295, num_parameters=2_305_897, image_size=96),
        _small("lvsm", num_tensors=53, num_parameters=1_218_688),
        _small("rayzer", num_tensors=185, num_parameters=2_313_459, image_size=48),
        PublishedCheckpoint(
            name="hwjiang/RayZer",
            files=("rayzer_dl3dv_8_12_12_96k.pt",),
            licence=RAYZER_NON_COMMERCIAL,
            is_gated=False,
            num_tensors=285,
            num_parameters=238_359_818,
            estimator="rayzer",
        ),
        _features("kornia/disk", "depth-save.pth", DISK_APACHE, "disk", 1_092_369),
        _features(
            "kornia/lightglue/disk", "disk_lightglue.pth", LIGHTGLUE_APACHE, "disk", _LIGHTGLUE
        ),
        _features("kornia/aliked", "aliked-n16.pth", ALIKED_BSD, "aliked", 677_356),
        _features(
            "kornia/lightglue/aliked",
            "aliked_lightglue.pth",
            LIGHTGLUE_APACHE,
            "aliked",
            _LIGHTGLUE,
        ),
    )
}
"""By name. No hashes stand here: the hub tells each file's when it is fetched."""


def weights_meant(word: str, method: str, official: str) -> str:
    """The name or path that a method's option means.

    Args:
        word: `small`, `official`, or a name or path, which stays.
        official: Name of the method's published weights.

    Raises:
        ValueError: No small weights of this method come with the package.
    """
    if word == OFFICIAL:
        return official
    if word != SMALL:
        return word
    name = f"{method}-{SMALL}"
    if name not in CATALOGUE:
        others = ", ".join(row.estimator for row in CATALOGUE.values() if row.comes_with_package)
        raise ValueError(
            f"No small weights of {method} come with this package (of these they do: {others}). "
            f"Expected published weights, or a file. Use --weights {OFFICIAL}."
        )
    return name


def about_small(name: str) -> str:
    """A sentence about views by weights that come with this package; of others none."""
    row = CATALOGUE.get(name)
    if row is None or not row.comes_with_package:
        return ""
    return (
        f"Its weights are small ones, trained on synthetic rooms of {row.image_size} pixels: views "
        f"will be small and blurred. Better ones: --weights {OFFICIAL}."
    )


def require_commercial(
    licence: Licence, what: str, published: PublishedCheckpoint | None = None
) -> None:
    """Refuse weights that may not, or perhaps may not, be used commercially.

    Args:
        what: The weights as the user named them.
        published: Their row of the catalogue; its estimator's commercial ones are named.

    Raises:
        ValueError: The licence forbids commercial use or is not known.
    """
    if licence.commercial:
        return
    others = [
        row.name
        for row in CATALOGUE.values()
        if row.licence.commercial and (published is None or row.estimator == published.estimator)
    ]
    found = (
        f"The licence of {what} is unknown"
        if licence.commercial is None
        else f"The licence of {what}, {licence.name}, forbids commercial use"
    )
    raise ValueError(
        f"{found}, and commercial use was asked for. Expected weights whose licence permits it: "
        f"{', '.join(others) or 'none is published'}. Use those, or leave the option out if your "
        "use is not commercial."
    )
