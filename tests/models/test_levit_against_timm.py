"""timm's LeViT is the reference: the same weights must give the same outputs and gradients.

All weights and statistics are drawn at random, none stays at zero or one; and all is in float64,
so that any difference beyond rounding is a difference in what is computed.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
from timm.models.levit import LevitDistilled
from torch import Tensor, nn

from levit_ablate.config import Design, Images
from levit_ablate.models.levit import LeViT
from levit_ablate.models.presets import preset
from levit_ablate.models.weights import RELEASED, from_released, load_weights, to_timm

Pair = tuple[LevitDistilled, LeViT]
IMAGENET = Images(channels=3, height=224, width=224, num_classes=1000)


@torch.no_grad()
def randomize(reference: nn.Module) -> None:
    generator = torch.Generator().manual_seed(7)
    for name, tensor in reference.state_dict().items():
        if "linear.weight" in name:
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
        elif "running_var" in name or "bn.weight" in name:
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif "bn." in name and tensor.is_floating_point():
            tensor.normal_(0, 0.3, generator=generator)
        elif "attention_biases" in name:
            tensor.normal_(0, 1, generator=generator)


def build(model: str, images: Images = IMAGENET, dtype: torch.dtype = torch.float64) -> Pair:
    """The model of timm and ours with the same random weights, both without drop path."""
    torch.manual_seed(0)
    reference = timm.create_model(
        model,
        img_size=(images.height, images.width),
        in_chans=images.channels,
        num_classes=images.num_classes,
    )
    reference.set_distilled_training(True)
    reference.to(dtype)
    randomize(reference)
    architecture = replace(preset(model).architecture, drop_path=0.0)
    network = LeViT(architecture, Design(), images).to(dtype)
    load_weights(network, reference.state_dict())
    return reference, network


def draw(images: Images, batch: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    shape = (batch, images.channels, images.height, images.width)
    return torch.randn(shape, generator=generator, dtype=dtype)


def assert_rounding_apart(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Equal to `tolerance` of the largest entry, or of 1 where that is larger.

    Some gradients are zero but for rounding: of the keys' biases, which a softmax does not see,
    and of what shifts the head's input, which its BatchNorm takes away.
    """
    largest = max(1.0, theirs.detach().abs().max().item())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * largest)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """A state dict with every parameter's gradient in its place."""
    tensors = dict(module.state_dict())
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        tensors[name] = parameter.grad
    return tensors


@pytest.fixture(scope="module", params=RELEASED)
def pair(request: pytest.FixtureRequest) -> Pair:
    return build(request.param)


def test_evaluation_gives_the_logits_of_timm(pair: Pair) -> None:
    reference, network = pair
    reference.eval()
    network.eval()
    images = draw(IMAGENET, batch=2)
    with torch.no_grad():
        assert_rounding_apart(network(images), reference(images), tolerance=1e-11)


def test_a_training_step_gives_the_heads_statistics_and_gradients_of_timm(pair: Pair) -> None:
    reference, network = pair
    reference.train()
    network.train()
    images = draw(IMAGENET, batch=3)
    supervised, distilled = reference(images)
    heads = network.forward_heads(images)
    assert_rounding_apart(heads["supervised"], supervised, tolerance=1e-10)
    assert_rounding_apart(heads["distilled"], distilled, tolerance=1e-10)

    pull = torch.randn_like(supervised), torch.randn_like(distilled)
    torch.autograd.backward((supervised, distilled), pull)
    torch.autograd.backward((heads["supervised"], heads["distilled"]), pull)
    ours, theirs = gradients(network), from_released(gradients(reference), network)
    assert ours.keys() == theirs.keys()
    for name in ours:  # what is no parameter is a running statistic, which the step has updated
        if name.endswith("num_batches_tracked"):
            assert ours[name] == theirs[name] == 1
        else:
            assert_rounding_apart(ours[name], theirs[name], tolerance=1e-9)


@pytest.mark.parametrize(
    "images",
    [
        Images(channels=3, height=96, width=160, num_classes=1000),
        Images(channels=1, height=112, width=48, num_classes=10),
    ],
    ids=["wide", "tall, one channel, ten classes"],
)
def test_images_of_any_shape_give_the_logits_of_timm(images: Images) -> None:
    reference, network = build("levit_128s", images)
    batch = draw(images, batch=2)
    with torch.no_grad():
        for module in (reference, network):
            module.eval()
        assert_rounding_apart(network(batch), reference(batch), tolerance=1e-11)


def test_a_stage_with_an_mlp_expansion_of_its_own_gives_the_logits_of_timm() -> None:
    images = Images(channels=3, height=64, width=64, num_classes=10)
    small = {"img_size": 64, "num_classes": 10, "mlp_ratio": (3.0, 2.0, 2.0)}  # shrinking: always 2
    reference = timm.create_model("levit_128s", **small).double().eval()
    randomize(reference)
    architecture = preset("levit_128s").architecture
    first, *others = architecture.stages
    stages = (replace(first, mlp_expansion=3.0), *others)
    network = LeViT(replace(architecture, stages=stages), Design(), images).double().eval()
    load_weights(network, reference.state_dict())
    batch = draw(images, batch=2)
    with torch.no_grad():
        assert_rounding_apart(network(batch), reference(batch), tolerance=1e-11)


def test_single_precision_gives_the_logits_of_timm() -> None:
    reference, network = build("levit_128s", dtype=torch.float32)
    images = draw(IMAGENET, batch=2, dtype=torch.float32)
    with torch.no_grad():
        for module in (reference, network):
            module.eval()
        assert_rounding_apart(network(images), reference(images), tolerance=1e-5)


def test_saved_weights_give_the_network_in_timm() -> None:
    images = Images(channels=3, height=64, width=64, num_classes=10)
    architecture = preset("levit_128s").architecture
    network = LeViT(architecture, Design(), images, seed=3).double().eval()
    reference = timm.create_model("levit_128s", img_size=64, num_classes=10).double().eval()
    reference.load_state_dict(to_timm(network))
    batch = draw(images, batch=2)
    with torch.no_grad():
        assert_rounding_apart(network(batch), reference(batch), tolerance=1e-12)
