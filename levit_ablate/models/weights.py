"""Weights from files: read in timm's layout, the official one or our own, written in timm's.

A file is read without running any code in it.

The official code (facebookresearch/LeViT, levit.py) keeps all blocks in one flat sequence and
stores the indices of the attention bias; timm (models/levit.py) has stages, and no indices. Both
have one layer `qkv` where this network has `queries` and `keys_values`: its rows go head by head,
in a head queries, keys, values. BatchNorm works row by row, so its tensors split alike.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count, product
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from levit_ablate.config import Architecture, Design, Images, Recipe, Stage, differences
from levit_ablate.errors import UserError, closest
from levit_ablate.models.levit import LeViT
from levit_ablate.models.presets import preset

RELEASED = ("levit_128s", "levit_128", "levit_192", "levit_256", "levit_384")
"""The presets with released weights, by the names that timm gives them too."""

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
"""Classes that an official checkpoint may hold beside tensors and plain data; they only hold
values. They are trusted while such a file is read, and the configs always."""
WRAPPERS = ("module.", "_orig_mod.", "network.")
"""Prefixes of the tensors' names under DistributedDataParallel and torch's average, torch.compile,
and `LeViTModule`."""
AVERAGE = "average.module."
"""Prefix of the averaged tensors in a `LeViTModule` that evaluates the average."""


class Names(NamedTuple):
    """Name of a tensor or module here, in timm and in the official code."""

    ours: str
    timm: str
    official: str


def _inside(outer: Iterable[Names], inner: Iterable[Names]) -> tuple[Names, ...]:
    """Every name of `inner` within every name of `outer`."""
    return tuple(
        Names(*(f"{around}.{name}".rstrip(".") for around, name in zip(a, b, strict=True)))
        for a, b in product(outer, inner)
    )


NORM = tuple(
    Names(f"norm.{name}", f"bn.{name}", f"bn.{name}")
    for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
)
LAYER = (Names("layer.weight", "linear.weight", "c.weight"), *NORM)
HEAD = (
    Names("layer.weight", "linear.weight", "l.weight"),
    Names("layer.bias", "linear.bias", "l.bias"),
    *NORM,
)
HEADS = {"supervised": "head", "distilled": "head_dist"}
BIASES = Names("position.biases", "attention_biases", "attention_biases")
PROJECTION = Names("projection", "proj.ln", "proj.1")
FUSED = (Names("queries", "qkv", "qkv"), Names("keys_values", "qkv", "qkv"), PROJECTION)
APART = (Names("queries", "q.ln", "q.1"), Names("keys_values", "kv", "kv"), PROJECTION)
ATTENTION = (BIASES, *_inside(FUSED, LAYER))
SHRINKING = (BIASES, *_inside(APART, LAYER))
MLP = _inside((Names("1", "ln1", "0"), Names("3", "ln2", "2")), LAYER)
# a block's name without its number → its names within stage or official sequence; its tensors
BLOCKS = {
    "downsample": (Names("downsample", "downsample.attn_downsample", ""), SHRINKING),
    "downsample_mlp": (Names("downsample_mlp.branch", "downsample.mlp", "m"), MLP),
    "attention": (Names("attention{number}.branch", "blocks.{number}.attn", "m"), ATTENTION),
    "mlp": (Names("mlp{number}.branch", "blocks.{number}.mlp", "m"), MLP),
}

FREE = ("zero_init", "linear_init", "distillation", "stem_norm")
"""The design choices that released weights fit either way: the start, the objective, and the stem's
norm, which with that of LeViT everywhere else can only be the same."""


def load_weights(network: LeViT, weights: str | Path | Mapping[str, Any]) -> None:
    """Copy weights into `network`: all of them or, if anything does not fit, none.

    They are a `.pth`, `.pt`, `.ckpt` or `.safetensors` file, or what is in one: a state dict in
    timm's layout, the official one (both for LeViT's design) or our own (any design), by itself or
    as `model` or `state_dict`; of the network, or of what wraps it (`WRAPPERS`). Raises UserError,
    in one line that says what differs.
    """
    network.load_state_dict(from_released(weights, network))


def pretrained(model: str) -> LeViT:
    """The preset `model` with its released weights. Raises UserError as `load_pretrained`."""
    chosen = preset(model)
    network = LeViT(chosen.architecture, Design(), chosen.images)
    load_pretrained(network, model)
    return network


def load_pretrained(network: LeViT, model: str) -> None:
    """Copy the released weights of `model`, which timm fetches and keeps, into `network`.

    Raises UserError where there are none for this model or design, or they cannot be fetched.
    """
    if model not in RELEASED:
        raise UserError(f"model: {model} has no released weights; {closest(model, RELEASED)}")
    _sources(network, "timm")  # the design is refused before anything is fetched
    try:
        reference = timm.create_model(model, pretrained=True)
    except Exception as error:  # the hub's client raises whatever its transport does
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"model: the weights of {model} cannot be fetched: {reason}") from error
    load_weights(network, reference.state_dict())


def to_timm(network: LeViT) -> dict[str, Tensor]:
    """The network's state dict in timm's layout, copied. Raises UserError for another design."""
    return _joined(network, _sources(network, "timm"))


def from_released(weights: str | Path | Mapping[str, Any], network: LeViT) -> dict[str, Tensor]:
    """Return the state dict that `load_weights` copies into `network`, which stays as it is."""
    where = "weights" if isinstance(weights, Mapping) else f"weights: {weights}"
    given = tensors_of(weights if isinstance(weights, Mapping) else read(Path(weights)), where)
    ours = network.state_dict()
    if given.keys() == ours.keys():  # our own layout, of whatever design
        _check(given, ours, where)
        return dict(given)
    layouts = [_sources(network, layout) for layout in Names._fields]
    sources = max(layouts, key=lambda sources: len(sources.keys() & given.keys()))
    _check(given, _joined(network, sources), where)
    converted: dict[str, Tensor] = {}
    for key, names in sources.items():
        converted.update(zip(names, _split(given[key], names, ours), strict=True))
    return converted


def _check(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Refuse a state dict that is not the network's, by the first key that differs."""
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected and "attention_bias_idxs" not in key]
    if len(missing) == len(expected):
        raise UserError(f"{where}: holds {[*given, 'nothing'][0]}, and no weights of LeViT")
    normed = [key.rsplit(".", 2)[0] for key in expected if key.endswith(".running_var")]
    if folded := [layer for layer in normed if f"{layer}.weight" in given]:
        raise UserError(
            f"{where}: BatchNorm is folded into its neighbours ({folded[0]}.weight), which cannot "
            f"be undone; give the checkpoint from before that"
        )
    for key, tensor in expected.items():
        file, network = tuple(given.get(key, tensor).shape), tuple(tensor.shape)
        if file != network and key.startswith("head") and file[1:] == network[1:]:
            raise UserError(f"{where}: is for {file[0]} classes, and the network for {network[0]}")
        if file != network:
            raise UserError(f"{where}: {key} has shape {file}, and {network} in the network")
    for keys, text in ((missing, "missing"), (unexpected, "unexpected")):
        if keys and all("head_dist." in key or "heads.distilled." in key for key in keys):
            raise UserError(f"{where}: {text} second head, {keys[0]}; see design.distillation")
        if keys:
            raise UserError(f"{where}: {text} tensors: {len(keys)}, the first is {keys[0]}")


def _names(network: LeViT) -> Iterator[Names]:
    """The three names of every tensor of a network of LeViT's design."""
    for place in range(0, len(list(network.stem[0].children())), 2):
        layer = Names(f"stem.0.{place}", f"stem.conv{place // 2 + 1}", f"patch_embed.{place}")
        yield from _inside([layer], LAYER)
    places = count()
    for stage, blocks in enumerate(network.stages):
        for block, _ in blocks.named_children():
            kind = block.rstrip("0123456789")
            names, tensors = BLOCKS[kind]
            outer = Names(f"stages.{stage}", f"stages.{stage}", f"blocks.{next(places)}")
            inner = Names(*(name.format(number=block.removeprefix(kind)) for name in names))
            yield from _inside(_inside([outer], [inner]), tensors)
    for name in network.heads:
        yield from _inside([Names(f"heads.{name}", HEADS[name], HEADS[name])], HEAD)


def _sources(network: LeViT, layout: str) -> dict[str, list[str]]:
    """Each key of a layout, with our one or two that it holds. Raises UserError if not LeViT's."""
    for choice, (value, _) in differences(network.design, Design()).items():
        if choice not in FREE:
            value = str(value).lower()
            raise UserError(f"weights: none have been released for design.{choice}: {value}")
    sources: dict[str, list[str]] = {}
    for names in _names(network):
        sources.setdefault(getattr(names, layout), []).append(names.ours)
    if strange := sorted({*chain(*sources.values())} ^ network.state_dict().keys()):
        raise UserError(f"weights: LeViT and this network differ in {strange[0]}; was it folded?")
    return sources


def _joined(network: LeViT, sources: Mapping[str, list[str]]) -> dict[str, Tensor]:
    """The network's tensors, copied; two that are one there put together, head by head."""
    ours = network.state_dict()
    joined = {key: ours[names[0]].clone() for key, names in sources.items()}
    for key, names in sources.items():
        if len(names) > 1 and joined[key].ndim > 0:  # BatchNorm's counter is one for all its rows
            by_head = [ours[name].unflatten(0, (_num_heads(names, ours), -1)) for name in names]
            joined[key] = torch.cat(by_head, dim=1).flatten(0, 1)
    return joined


def _split(tensor: Tensor, names: list[str], ours: Mapping[str, Tensor]) -> list[Tensor]:
    """The tensors that `_joined` would make this one of, copied."""
    if len(names) == 1 or tensor.ndim == 0:
        return [tensor.clone() for _ in names]
    heads = _num_heads(names, ours)
    rows = [len(ours[name]) // heads for name in names]
    return [part.flatten(0, 1) for part in tensor.unflatten(0, (heads, -1)).split(rows, dim=1)]


def _num_heads(names: list[str], ours: Mapping[str, Tensor]) -> int:
    return len(ours[names[0].partition("queries")[0] + "position.biases"])


def read(path: Path) -> Any:
    """Return the contents of a file of weights, without running any code in it."""
    if not os.path.isfile(path):
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
    """Return whether a file is a checkpoint of `LeViTModule` whose recipe evaluates the average."""
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
