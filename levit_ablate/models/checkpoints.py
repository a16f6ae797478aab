"""The tensors in a file of weights, read without running any code in it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from levit_ablate.config import Architecture, Design, Images, Recipe, Stage
from levit_ablate.errors import UserError
from levit_ablate.paths import is_file

# a checkpoint of `LeViTModule` holds the configs themselves; torch opens them wherever it is loaded
torch.serialization.add_safe_globals([Architecture, Design, Images, Recipe, Stage])

SAFE: list[Any] = [
    argparse.Namespace,  # the official code's `args`
    *(  # in them, with submitit; as pure paths, which every system can make of any other's
        (PureWindowsPath if "Windows" in name else PurePosixPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")  # the latter is Python 3.13's
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    ),
]
"""What an official checkpoint may hold beside tensors and plain data: classes that only hold
values. They are trusted while such a file is read, and the configs always."""
WRAPPERS = ("module.", "_orig_mod.", "network.")
"""What DistributedDataParallel and torch's average, torch.compile and `LeViTModule` put before the
names of the network's tensors."""
AVERAGE = "average.module."
"""What `LeViTModule` puts before those of its average, where that is what it evaluates."""


def read(path: Path) -> Any:
    """What a file of weights holds, without running any code in it."""
    if not is_file(path):
        raise UserError(f"weights: {path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(SAFE):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the bytes decide what is raised
        raise UserError(f"weights: {path}: no checkpoint, or not of tensors alone") from error


def tensors_of(contents: Any, where: str) -> dict[str, Tensor]:
    """The state dict in a file's contents: all of them, or what is under a usual key."""
    wrappers = (AVERAGE, *WRAPPERS) if _evaluates_average(contents) else WRAPPERS
    for key in ("model", "state_dict"):
        if isinstance(contents, Mapping) and isinstance(contents.get(key), Mapping):
            contents = contents[key]
    if not isinstance(contents, Mapping):
        raise UserError(f"{where}: holds no state dict but {type(contents).__name__}")
    for key, value in contents.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise UserError(f"{where}: holds no state dict: {key!r} is {type(value).__name__}")
    return _unwrapped(contents, wrappers)


def _evaluates_average(contents: Any) -> bool:
    """Whether a file is a checkpoint of `LeViTModule` whose recipe evaluates the average."""
    options = contents.get("hyper_parameters") if isinstance(contents, Mapping) else None
    recipe = options.get("recipe") if isinstance(options, Mapping) else None
    return isinstance(recipe, Recipe) and recipe.evaluate == "average"


def _unwrapped(tensors: Mapping[str, Tensor], wrappers: tuple[str, ...]) -> dict[str, Tensor]:
    """The network's tensors by their own names; what a wrapper has beside them is left out."""
    found = dict(tensors)
    while wrapper := next((w for w in wrappers if any(key.startswith(w) for key in found)), ""):
        inside = {key: tensor for key, tensor in found.items() if key.startswith(wrapper)}
        found = {key.removeprefix(wrapper): tensor for key, tensor in inside.items()}
    return {key.replace("._orig_mod.", "."): tensor for key, tensor in found.items()}
