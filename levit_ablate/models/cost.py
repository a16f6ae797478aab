"""Parameters and multiply-adds, counted on the network itself, by the paper's convention.

"FLOPs" are multiply-adds of convolutions, linear layers and products of matrices, plus one per
softmax entry. Norms, activations and the addition of biases are not counted. Both figures are those
of the network with ONE classification head (paper Table 4; the released models have two).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from levit_ablate.config import Architecture, Design, Images
from levit_ablate.models import geometry
from levit_ablate.models.levit import LeViT

UNCOUNTED = tuple(
    f"torch.nn.modules.{kind}" for kind in ("activation", "batchnorm", "normalization")
)
"""Modules of torch with layers that change no shape and are not counted. They are taken out, for on
the meta device they would take most of the time."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters, and multiply-adds for one image."""

    params: int = 0
    flops: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(params=self.params + other.params, flops=self.flops + other.flops)

    def __rmul__(self, times: int) -> Cost:
        return Cost(params=times * self.params, flops=times * self.flops)


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The cost of a network, part by part; class token and position count to the stem."""

    stem: Cost
    stages: tuple[Cost, ...]
    head: Cost

    @property
    def total(self) -> Cost:
        return sum(self.stages, self.stem + self.head)


@lru_cache(maxsize=4096)
def costs(architecture: Architecture, design: Design, images: Images) -> Costs:
    """Build the network without memory (torch's meta device), pass one image through, and count.

    The blocks of a stage cost the same, so one of each stage is built and counted `depth` times.
    """
    stages = geometry.stages_of(architecture, design)
    shallow = replace(architecture, stages=tuple(replace(stage, depth=1) for stage in stages))
    with torch.device("meta"), _NoValues():
        network = LeViT(shallow, design, images).eval()
        image = torch.empty(1, images.channels, images.height, images.width)
    cost = _counted(network, image)

    def total(*parts: nn.Module) -> Cost:
        return sum((cost[part] for part in parts), Cost())

    blocks = [list(stage.children()) for stage in network.stages]
    return Costs(
        stem=total(network.stem, network.class_token, network.position),
        stages=tuple(
            total(*shrinking) + stage.depth * total(attention, mlp)
            for stage, (*shrinking, attention, mlp) in zip(stages, blocks, strict=True)
        ),
        head=total(network.pooling, network.heads["supervised"]),
    )


def _counted(network: LeViT, image: Tensor) -> dict[nn.Module, Cost]:
    """The cost of every part of the network for one image. Takes out what is not counted."""
    heads = network.heads.values()
    parts = [network.stem, network.class_token, network.position, network.pooling, *heads]
    parts += [block for stage in network.stages for block in stage.children()]
    params = {part: sum(parameter.numel() for parameter in part.parameters()) for part in parts}
    for name, module in list(network.named_modules()):
        if type(module).__module__ in UNCOUNTED:
            network.set_submodule(name, nn.Identity())
    counter = _Counter()
    for part in parts:
        part.register_forward_pre_hook(counter.enter)
    with torch.no_grad(), counter:
        network(image)
    return {part: Cost(params=params[part], flops=counter.flops[part]) for part in parts}


class _Counter(TorchDispatchMode):
    """Counts multiply-adds by torch's own formulas, and softmax entries, for each part in turn."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: Counter[nn.Module] = Counter()
        self.part: nn.Module

    def enter(self, part: nn.Module, args: Any) -> None:
        """Count for this part from here on."""
        self.part = part

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        operation = function._overloadpacket
        if formula := flop_registry.get(operation):
            self.flops[self.part] += formula(*args, **(kwargs or {}), out_val=output) // 2
        elif operation is torch.ops.aten._softmax:
            self.flops[self.part] += output.numel()
        return output


class _NoValues(TorchFunctionMode):
    """Skips what only draws or sets values (`uniform_`, `fill_`): meta tensors have none."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.__name__.endswith("_") and not function.__name__.endswith("__"):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))
