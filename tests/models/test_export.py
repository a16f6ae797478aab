"""Every ablation exports, with a batch of any size, by torch.export and to ONNX."""

from __future__ import annotations

from collections.abc import Callable

import onnxruntime
import pytest
import torch
from designs import DIGITS, pixels, randomize
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from levit_ablate import library
from levit_ablate.config import Architecture, Design, Stage
from levit_ablate.models.folding import fold_batch_norms
from levit_ablate.models.levit import LeViT

# every kind of block, as few of them as there can be: an export takes a second
SMALL = Architecture(
    stages=(Stage(depth=1, width=16, num_heads=1), Stage(depth=1, width=24, num_heads=2)),
    value_dim=16,
    stem_depth=2,
    drop_path=0.1,
)
BESIDE = {
    "relu": {"activation": "relu"},
    "soft": {"distillation": "soft"},
    "no position": {"position": "none"},
    "a class token beside convolutions": {"pooling": "class_token", "downsampling": "convolution"},
    "a class token without a pyramid": {"pooling": "class_token", "pyramid": False},
}
"""Choices that no ablation makes, and combinations whose parts meet nowhere else."""
DESIGNS = {name: library.read(name).design for name in library.names()} | BESIDE
FOLDED = ("class_token", "no_shrinking_attention")
NAMES = [*DESIGNS, *(f"{name} folded" for name in FOLDED)]


def network_of(name: str) -> nn.Module:
    """A network in evaluation whose weights hide nothing behind zeros."""
    chosen = Design(**DESIGNS[name.removesuffix(" folded")])
    network = randomize(LeViT(SMALL, chosen, DIGITS), scale=0.1).eval()
    return fold_batch_norms(network) if name.endswith(" folded") else network


def one_of_each_graph() -> list[str]:
    """The names, without those whose networks differ from an earlier one in their weights alone."""
    first: dict[str, str] = {}
    for name in NAMES:
        first.setdefault(repr(network_of(name)), name)
    return list(first.values())


def exported(network: nn.Module) -> ExportedProgram:
    shapes = ({0: Dim("batch")},)
    return torch.export.export(network, (pixels(batch=2),), dynamic_shapes=shapes)


def assert_equal_to(network: nn.Module, function, batches: tuple[int, ...]) -> None:
    for batch in batches:
        images = pixels(batch)
        with torch.no_grad():
            torch.testing.assert_close(function(images), network(images), rtol=1e-4, atol=1e-5)


def to_onnx(program: ExportedProgram) -> Callable[[Tensor], Tensor]:
    """The program in ONNX, run by ONNX Runtime."""
    model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (image,) = session.get_inputs()
    assert image.shape[1:] == [1, 32, 32]
    assert isinstance(image.shape[0], str)  # a batch of any size

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(None, {image.name: images.numpy()})
        return torch.from_numpy(logits)

    return run


@pytest.mark.parametrize("name", one_of_each_graph())
def test_every_ablation_exports_by_torch_and_to_onnx_with_a_batch_of_any_size(name: str) -> None:
    network = network_of(name).requires_grad_(False)  # which saves a fifth of the time
    program = exported(network)
    assert_equal_to(network, program.module(), batches=(1, 2, 5))
    assert_equal_to(network, to_onnx(program), batches=(1, 5))


@pytest.mark.parametrize("name", ["baseline", "class_token"])
def test_a_network_in_training_exports_with_a_batch_of_any_size(name: str) -> None:
    """Drop path counts the images too."""
    program = exported(network_of(name).train()).module()
    for batch in (3, 5):
        assert program(pixels(batch)).shape == (batch, DIGITS.num_classes)
