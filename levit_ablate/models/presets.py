"""Networks by name: LeViT's five of paper Table 2, two small ones, and those of the user's files.

A file in ./ablations/models comes before what ships under its name, as with ablations.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from levit_ablate import library
from levit_ablate.config import Architecture, Images, Stage
from levit_ablate.errors import UserError, closest
from levit_ablate.library import MODELS, line, part_of
from levit_ablate.schema import config_from, merge, read_yaml

IMAGENET = Images(channels=3, height=224, width=224, num_classes=1000)
CIFAR = Images(channels=3, height=32, width=32, num_classes=10)
DIGITS = Images(channels=1, height=32, width=32, num_classes=10)


def _architecture(said: Any, key: str) -> Architecture:
    return config_from(Architecture, part_of(Architecture)(said, key), "", key)


def _images(said: Any, key: str) -> Images:
    return config_from(Images, merge(asdict(IMAGENET), part_of(Images)(said, key)), "", key)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named geometry and the images that it was made for."""

    architecture: Annotated[Architecture, _architecture]
    images: Annotated[Images, _images]
    """Images of `show` and `LeViTModule` where none are given; a run's are its dataset's."""
    summary: Annotated[str, line("what it is")]
    """One line on what it is."""


def _stages(
    widths: tuple[int, ...], depths: tuple[int, ...], num_heads: tuple[int, ...]
) -> tuple[Stage, ...]:
    return tuple(
        Stage(width=width, depth=depth, num_heads=heads)
        for width, depth, heads in zip(widths, depths, num_heads, strict=True)
    )


# D = value_dim / 2: 16 for the 128s, 32 for the others. Shrinking blocks have C / D heads, as in
# the released weights; the paper's table prints 18 for LeViT-384's second, where the code has 16.
PRESETS = {
    "levit_128s": Preset(
        summary="LeViT-128S, the model of the ablation table",
        architecture=Architecture(
            stages=_stages((128, 256, 384), (2, 3, 4), (4, 6, 8)), value_dim=32
        ),
        images=IMAGENET,
    ),
    "levit_128": Preset(
        summary="LeViT-128",
        architecture=Architecture(
            stages=_stages((128, 256, 384), (4, 4, 4), (4, 8, 12)), value_dim=32
        ),
        images=IMAGENET,
    ),
    "levit_192": Preset(
        summary="LeViT-192",
        architecture=Architecture(
            stages=_stages((192, 288, 384), (4, 4, 4), (3, 5, 6)), value_dim=64
        ),
        images=IMAGENET,
    ),
    "levit_256": Preset(
        summary="LeViT-256",
        architecture=Architecture(
            stages=_stages((256, 384, 512), (4, 4, 4), (4, 6, 8)), value_dim=64
        ),
        images=IMAGENET,
    ),
    "levit_384": Preset(
        summary="LeViT-384",
        architecture=Architecture(
            stages=_stages((384, 512, 768), (4, 4, 4), (6, 9, 12)), value_dim=64, drop_path=0.1
        ),
        images=IMAGENET,
    ),
    "levit_micro": Preset(
        summary="A small one, for photographs of 32x32",
        architecture=Architecture(
            stages=_stages((96, 160, 224), (2, 2, 2), (3, 5, 7)), value_dim=32, stem_depth=2
        ),
        images=CIFAR,
    ),
    "levit_nano": Preset(
        summary="The smallest, for digits",
        architecture=Architecture(
            stages=_stages((32, 48, 64), (1, 1, 2), (2, 3, 4)), value_dim=16, stem_depth=2
        ),
        images=DIGITS,
    ),
}


def preset(name: str) -> Preset:
    """Return the model of this name, or in this file. Raises UserError, with the closest name."""
    own = {} if name.endswith(library.SUFFIXES) else library.names(MODELS)
    if name in own or name.endswith(library.SUFFIXES):
        return read_file(own.get(name, Path(name)))
    if name not in PRESETS:
        raise UserError(f"model: no preset is called {name!r}; {closest(name, {**PRESETS, **own})}")
    return PRESETS[name]


def read_file(path: Path) -> Preset:
    """Read a model's file and check every key in it. Raises UserError with file and key."""
    absent = dict.fromkeys(("summary", "architecture", "images"))
    return config_from(Preset, {**absent, **read_yaml(path)}, str(path))
