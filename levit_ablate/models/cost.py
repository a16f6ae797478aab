"""Parameters and multiply-adds, counted on the network itself, by the paper's convention.

"FLOPs" are multiply-adds of convolutions, linear layers, Q K^T and A V, plus one per softmax entry.
Norms, activations and the addition of biases are not counted. Both figures are those of the network
with ONE classification head (paper Table 4; the released models have two).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from levit_ablate.config import Architecture, Design, Images
from levit_ablate.models import geometry
from levit_ablate.models.attention import Attention
from levit_ablate.models.levit import LeViT

UNCOUNTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.Hardswish, nn.GELU, nn.ReLU)
"""What changes no shape and is not counted. On the meta device it would take most of the time."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Parameters, and multiply-adds for one image."""

    params: int
    flops: int

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
    with torch.device("meta"):
        network = LeViT(shallow, design, images)
        image = torch.empty(1, images.channels, images.height, images.width)
    params = {name: parameter.numel() for name, parameter in network.named_parameters()}
    flops = _multiply_adds(network.eval(), image)

    def cost(*names: str) -> Cost:
        def inside(counts: dict[str, int]) -> int:
            return sum(count for own, count in counts.items() if own.startswith(starts))

        starts = tuple(f"{name}." for name in names)
        return Cost(params=inside(params), flops=inside(flops))

    return Costs(
        stem=cost("stem", "class_token", "position"),
        stages=tuple(
            cost(*(f"stages.{index}.{name}" for name in ("downsample", "downsample_mlp") if index))
            + stage.depth * cost(f"stages.{index}.attention0", f"stages.{index}.mlp0")
            for index, stage in enumerate(stages)
        ),
        head=cost("heads.supervised"),
    )


def _multiply_adds(network: nn.Module, image: Tensor) -> dict[str, int]:
    """Multiply-adds of every counted module for one image, by the module's name.

    Takes out of the network what is not counted.
    """
    flops: dict[str, int] = {}
    hooks = []

    def count(name: str, layer: nn.Module, per_output: int) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            flops[name] = per_output * output.numel()

        hooks.append(layer.register_forward_hook(hook))

    for name, module in list(network.named_modules()):
        if isinstance(module, UNCOUNTED):
            network.set_submodule(name, nn.Identity())
        elif isinstance(module, nn.Linear | nn.Conv2d):
            count(name, module, module.weight[0].numel())
        elif isinstance(module, Attention):
            # a score costs D in Q K^T, one in the softmax, V in A V
            count(f"{name}.position", module.position, module.key_dim + 1 + module.value_dim)
    with torch.no_grad():
        network(image)
    for hook in hooks:
        hook.remove()
    return flops
