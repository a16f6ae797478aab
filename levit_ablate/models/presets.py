"""The networks by name: LeViT's five of paper Table 2, and two small ones for 32x32 images."""

from __future__ import annotations

from dataclasses import dataclass

from levit_ablate.config import Architecture, Images, Stage
from levit_ablate.errors import UserError, closest


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named geometry and the images that it was made for."""

    architecture: Architecture
    images: Images


def _stages(
    widths: tuple[int, ...], depths: tuple[int, ...], num_heads: tuple[int, ...]
) -> tuple[Stage, ...]:
    return tuple(
        Stage(width=width, depth=depth, num_heads=heads)
        for width, depth, heads in zip(widths, depths, num_heads, strict=True)
    )


IMAGENET = Images(channels=3, height=224, width=224, num_classes=1000)
CIFAR = Images(channels=3, height=32, width=32, num_classes=10)
DIGITS = Images(channels=1, height=32, width=32, num_classes=10)

# D = value_dim / 2: 16 for the 128s, 32 for the others. Shrinking blocks have C / D heads, as in
# the released weights; the paper's table prints 18 for LeViT-384's second, where the code has 16.
PRESETS = {
    "levit_128s": Preset(
        architecture=Architecture(
            stages=_stages((128, 256, 384), (2, 3, 4), (4, 6, 8)), value_dim=32
        ),
        images=IMAGENET,
    ),
    "levit_128": Preset(
        architecture=Architecture(
            stages=_stages((128, 256, 384), (4, 4, 4), (4, 8, 12)), value_dim=32
        ),
        images=IMAGENET,
    ),
    "levit_192": Preset(
        architecture=Architecture(
            stages=_stages((192, 288, 384), (4, 4, 4), (3, 5, 6)), value_dim=64
        ),
        images=IMAGENET,
    ),
    "levit_256": Preset(
        architecture=Architecture(
            stages=_stages((256, 384, 512), (4, 4, 4), (4, 6, 8)), value_dim=64
        ),
        images=IMAGENET,
    ),
    "levit_384": Preset(
        architecture=Architecture(
            stages=_stages((384, 512, 768), (4, 4, 4), (6, 9, 12)), value_dim=64, drop_path=0.1
        ),
        images=IMAGENET,
    ),
    "levit_micro": Preset(
        architecture=Architecture(
            stages=_stages((96, 160, 224), (2, 2, 2), (3, 5, 7)), value_dim=32, stem_depth=2
        ),
        images=CIFAR,
    ),
    "levit_nano": Preset(
        architecture=Architecture(
            stages=_stages((32, 48, 64), (1, 1, 2), (2, 3, 4)), value_dim=16, stem_depth=2
        ),
        images=DIGITS,
    ),
}


def preset(name: str) -> Preset:
    """The preset called `name`. Raises UserError with the closest name where there is none."""
    if name not in PRESETS:
        raise UserError(f"model: no preset is called {name!r}; {closest(name, PRESETS)}")
    return PRESETS[name]
