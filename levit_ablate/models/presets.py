"""Models by name: files in ./ablations/models, and those that ship: LeViT's five, two small ones.

LeViT's five are those of paper Table 2. Imports no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from levit_ablate.config import Architecture, Images
from levit_ablate.errors import UserError, closest
from levit_ablate.library import MODELS, SUFFIXES, folders, line, names, part_of
from levit_ablate.schema import config_from, merge, read_yaml

IMAGENET = Images(channels=3, height=224, width=224, num_classes=1000)


def _architecture(value: Any, key: str) -> Architecture:
    return config_from(Architecture, part_of(Architecture)(value, key), "", key)


def _images(value: Any, key: str) -> Images:
    return config_from(Images, merge(asdict(IMAGENET), part_of(Images)(value, key)), "", key)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A named geometry and the images that it was made for."""

    architecture: Annotated[Architecture, _architecture]
    images: Annotated[Images, _images]
    """Images of `show` and `LeViTModule` where none are given; a run's are its dataset's."""
    summary: Annotated[str, line("what it is")]
    """One line on what it is."""


def preset(name: str) -> Preset:
    """Return the model of this name, or in this file. Raises UserError, with the closest name."""
    if name.endswith(SUFFIXES):
        return read_file(Path(name))
    models = names(MODELS)
    if name not in models:
        raise UserError(f"model: no preset is called {name!r}; {closest(name, models)}")
    return read_file(models[name])


def shipped() -> dict[str, Preset]:
    """Return the models that ship, by name."""
    return {path.stem: read_file(path) for path in sorted(folders(MODELS)[1].glob("*.yaml"))}


def read_file(path: Path) -> Preset:
    """Read a model's file and check every key in it. Raises UserError with file and key."""
    absent = dict.fromkeys(("summary", "architecture", "images"))
    return config_from(Preset, {**absent, **read_yaml(path)}, str(path))
