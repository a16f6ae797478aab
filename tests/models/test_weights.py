from __future__ import annotations

import argparse
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from zipfile import ZipFile

import pytest
import timm
import torch
from designs import SINGLE_FLIPS, name_of, nano
from lightning import Trainer
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from levit_ablate.config import Design, Recipe, differences
from levit_ablate.errors import UserError
from levit_ablate.models.folding import fold_batch_norms
from levit_ablate.models.levit import LeViT
from levit_ablate.models.parts import AttentionBias
from levit_ablate.models.presets import preset
from levit_ablate.models.weights import (
    FREE,
    RELEASED,
    from_released,
    load_weights,
    pretrained,
    to_timm,
)
from levit_ablate.training.module import LeViTModule

DEPTHS = {"levit_128s": (2, 3, 4)}  # the other four have (4, 4, 4)


@cache
def built(model: str, design: Design, **changes: Any) -> LeViT:
    chosen = preset(model)
    return LeViT(chosen.architecture, design, replace(chosen.images, **changes))


def build(model: str = "levit_128s", design: Design | None = None, **changes: Any) -> LeViT:
    """A network of the test's own; to draw its weights takes longest, and is done once."""
    return deepcopy(built(model, design or Design(), **changes))


@cache
def drawn(model: str, **options: Any) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    with torch.device("meta"):
        reference = timm.create_model(model, **options)
    return {
        name: torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else torch.randint(1, 9, tensor.shape, generator=generator)
        for name, tensor in reference.state_dict().items()
    }


def timm_weights(model: str = "levit_128s", **options: Any) -> dict[str, Tensor]:
    """A state dict of timm's whose every entry is drawn at random."""
    return {name: tensor.clone() for name, tensor in drawn(model, **options).items()}


def official_indices(side: int, stride: int) -> Tensor:
    """Offsets of all pairs of tokens, numbered in the order of their first appearance."""
    numbers: dict[tuple[int, int], int] = {}
    queries = product(range(0, side, stride), repeat=2)
    pairs = product(queries, product(range(side), repeat=2))
    index = [
        numbers.setdefault((abs(query[0] - key[0]), abs(query[1] - key[1])), len(numbers))
        for query, key in pairs
    ]
    return torch.tensor(index).view(-1, side * side)


def official_weights(model: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of timm under the names of the official code, written out by hand."""
    prefixes = {f"stem.conv{number + 1}.": f"patch_embed.{2 * number}." for number in range(4)}
    prefixes |= {"head.": "head.", "head_dist.": "head_dist."}
    indices: dict[str, Tensor] = {}
    place = 0
    for stage, depth in enumerate(DEPTHS.get(model, (4, 4, 4))):
        if stage:
            down = f"stages.{stage}.downsample"
            prefixes[f"{down}.attn_downsample."] = f"blocks.{place}."
            prefixes[f"{down}.mlp."] = f"blocks.{place + 1}.m."
            side = {1: 14, 2: 7}[stage]
            indices[f"blocks.{place}.attention_bias_idxs"] = official_indices(side, stride=2)
            place += 2
        for block in range(depth):
            prefixes[f"stages.{stage}.blocks.{block}.attn."] = f"blocks.{place}.m."
            prefixes[f"stages.{stage}.blocks.{block}.mlp."] = f"blocks.{place + 1}.m."
            side = {0: 14, 1: 7, 2: 4}[stage]
            indices[f"blocks.{place}.m.attention_bias_idxs"] = official_indices(side, stride=1)
            place += 2
    layers = {"q.ln.": "q.1.", "proj.ln.": "proj.1.", "ln1.": "0.", "ln2.": "2."}
    official: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
        rest = name.removeprefix(prefix)
        for theirs, theirs_there in layers.items():
            rest = rest.replace(theirs, theirs_there)
        rest = rest.replace("linear.", "l." if "head" in prefix else "c.")
        official[prefixes[prefix] + rest] = tensor
    return official | indices


def assert_same_bits(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("model", RELEASED)
def test_weights_of_timm_come_back_to_the_bit(model: str) -> None:
    weights = timm_weights(model)
    for name in weights:  # our two norms of one `qkv` count the same steps
        if name.endswith("num_batches_tracked"):
            weights[name].fill_(3)
    network = build(model)
    load_weights(network, weights)
    assert_same_bits(to_timm(network), weights)


@pytest.mark.parametrize("model", RELEASED)
def test_the_official_layout_gives_the_same_network_as_that_of_timm(model: str) -> None:
    weights = timm_weights(model)
    network = build(model)
    ours = from_released(weights, network)
    assert_same_bits(from_released({"model": official_weights(model, weights)}, network), ours)


def test_the_official_layout_has_the_keys_of_the_official_code() -> None:
    official = official_weights("levit_128s", timm_weights())
    assert set(official) >= {
        "patch_embed.0.c.weight",
        "patch_embed.6.bn.running_var",
        "blocks.0.m.qkv.c.weight",
        "blocks.0.m.attention_biases",
        "blocks.0.m.attention_bias_idxs",
        "blocks.0.m.proj.1.bn.weight",
        "blocks.1.m.0.c.weight",
        "blocks.1.m.2.bn.bias",
        "blocks.4.kv.c.weight",
        "blocks.4.q.1.c.weight",
        "blocks.4.proj.1.c.weight",
        "blocks.5.m.0.c.weight",
        "blocks.12.attention_bias_idxs",
        "blocks.21.m.2.c.weight",
        "head.l.bias",
        "head_dist.bn.num_batches_tracked",
    }


def test_offsets_are_numbered_as_in_the_official_code() -> None:
    biases = [part for part in build().modules() if isinstance(part, AttentionBias)]
    grids = [(14, 1)] * 2 + [(14, 2)] + [(7, 1)] * 3 + [(7, 2)] + [(4, 1)] * 4
    for bias, (side, stride) in zip(biases, grids, strict=True):
        assert torch.equal(bias.index, official_indices(side, stride))


@pytest.mark.parametrize("name", ["levit.pth", "levit.pt", "levit.safetensors"])
def test_a_file_loads_in_every_format(name: str, tmp_path: Path) -> None:
    weights = timm_weights()
    if name.endswith("safetensors"):
        save_file(weights, tmp_path / name)
    else:
        # what the official training script saves beside the weights
        extra = {"epoch": 3, "args": argparse.Namespace(lr=5e-4)}
        torch.save({"model": official_weights("levit_128s", weights), **extra}, tmp_path / name)
    network = build()
    load_weights(network, tmp_path / name)
    assert_same_bits(network.state_dict(), from_released(weights, network))


class ElsewherePath:
    """Pickled as the path of another system, or of another Python, is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return type(self), ("/", "checkpoint", "levit")


@pytest.mark.parametrize("name", ["PosixPath", "WindowsPath"])
@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_a_checkpoint_of_submitit_holds_a_path_of_any_system(
    module: str, name: str, tmp_path: Path
) -> None:
    weights = official_weights("levit_128s", timm_weights())
    contents = {"model": weights, "args": argparse.Namespace(output_dir=ElsewherePath("there"))}
    torch.save(contents, tmp_path / "ours.pth")
    written = f"c{ElsewherePath.__module__}\nElsewherePath\n".encode()
    with ZipFile(tmp_path / "ours.pth") as ours, ZipFile(tmp_path / "levit.pth", "w") as theirs:
        for entry in ours.namelist():
            content = ours.read(entry)
            assert written in content or not entry.endswith("data.pkl")
            theirs.writestr(entry, content.replace(written, f"c{module}\n{name}\n".encode()))
    network = build()
    load_weights(network, tmp_path / "levit.pth")
    assert_same_bits(network.state_dict(), from_released(weights, network))


def test_a_path_as_this_system_writes_it_is_no_obstacle(tmp_path: Path) -> None:
    weights = timm_weights()
    args = argparse.Namespace(output_dir=tmp_path, resume=PurePosixPath("x"))
    torch.save({"model": weights, "args": args}, tmp_path / "levit.pth")
    network = build()
    load_weights(network, tmp_path / "levit.pth")
    assert_same_bits(network.state_dict(), from_released(weights, network))


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "network.", "module._orig_mod.", "network.module._orig_mod."],
)
def test_weights_of_what_wraps_a_network_load(prefix: str) -> None:
    network = build()
    for weights in (timm_weights(), official_weights("levit_128s", timm_weights())):
        wrapped = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
        ours = from_released({"state_dict": wrapped}, network)
        assert_same_bits(ours, from_released(weights, network))


def test_weights_of_an_averaged_and_of_a_partly_compiled_network_load() -> None:
    network, other = build(), build()
    load_weights(network, timm_weights())
    load_weights(other, AveragedModel(network).state_dict())
    assert_same_bits(other.state_dict(), network.state_dict())
    compiled = build()
    load_weights(compiled, timm_weights())
    compiled.stages[1] = torch.compile(compiled.stages[1])
    assert any("._orig_mod." in name for name in compiled.state_dict())
    assert_same_bits(from_released(compiled.state_dict(), other), network.state_dict())


@pytest.mark.parametrize("evaluate", ["network", "average"])
def test_of_a_lightning_checkpoint_of_ours_the_evaluated_weights_load(
    tmp_path: Path, evaluate: Literal["network", "average"]
) -> None:
    chosen = preset("levit_nano")
    recipe = Recipe(ema_decay=0.9, evaluate=evaluate)
    module = LeViTModule(design=Design(zero_init=False), images=chosen.images, recipe=recipe)
    assert module.average is not None
    module.average.update_parameters(module.network)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.add_(1.0)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "best.ckpt")
    network = LeViT(chosen.architecture, Design(), chosen.images, seed=9)
    load_weights(network, tmp_path / "best.ckpt")
    assert_same_bits(network.state_dict(), module.evaluated.state_dict())
    assert (module.evaluated is module.network) == (evaluate == "network")


def test_an_official_checkpoint_leaves_what_torch_trusts_as_it_was(tmp_path: Path) -> None:
    before = set(map(str, torch.serialization.get_safe_globals()))
    torch.save({"model": timm_weights()}, tmp_path / "official.pth")
    load_weights(build(), tmp_path / "official.pth")
    after = set(map(str, torch.serialization.get_safe_globals()))
    assert after == before and any("Design" in each for each in after)


def test_the_state_dict_of_a_network_of_ours_loads_too() -> None:
    first, second = build(), build()
    load_weights(first, timm_weights())
    load_weights(second, first.state_dict())
    assert_same_bits(second.state_dict(), first.state_dict())


@pytest.mark.parametrize("design", SINGLE_FLIPS, ids=name_of)
def test_the_state_dict_of_a_network_of_any_design_loads_into_its_like(design: Design) -> None:
    ours, other = nano(design), nano(design)
    given = {name: tensor + 1 for name, tensor in ours.state_dict().items()}
    load_weights(other, given)
    assert all(torch.equal(given[name], own) for name, own in other.state_dict().items())


def test_one_head_goes_into_a_network_of_one_head() -> None:
    weights = timm_weights(distilled=False)
    network = build(design=Design(distillation="none"))
    load_weights(network, weights)
    assert to_timm(network).keys() == weights.keys()


def test_what_is_given_and_what_is_loaded_share_no_memory() -> None:
    weights = timm_weights()
    network = build()
    load_weights(network, weights)
    before = to_timm(network)
    for tensors in (weights, to_timm(network), from_released(weights, network)):
        for tensor in tensors.values():
            tensor.zero_()
    assert_same_bits(to_timm(network), before)
    memory = [tensor.data_ptr() for tensor in from_released(before, network).values()]
    assert len(set(memory)) == len(memory)


# Refusals.


@pytest.fixture(scope="module")
def network() -> LeViT:
    return build()


@pytest.fixture
def weights() -> dict[str, Tensor]:
    return timm_weights()


@pytest.mark.parametrize(
    ("name", "text"), [("a.pth", "not one"), ("a.pth", ""), ("a.safetensors", "not one")]
)
def test_a_file_that_is_no_checkpoint_is_refused(
    name: str, text: str, tmp_path: Path, network: LeViT
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=rf"^weights: .*{name}: no checkpoint, or not of tensors"):
        load_weights(network, tmp_path / name)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, network: LeViT) -> None:
    with pytest.raises(UserError, match=r"^weights: .*none\.pth: there is no such file$"):
        load_weights(network, str(tmp_path / "none.pth"))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, network: LeViT) -> None:
    torch.save({"model": network}, tmp_path / "whole.pth")
    with pytest.raises(UserError, match="no checkpoint, or not of tensors alone"):
        load_weights(network, tmp_path / "whole.pth")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ([1, 2], r"holds no state dict but list$"),
        (torch.zeros(3), r"holds no state dict but Tensor$"),
        ({"model": {"epoch": 3}}, r"holds no state dict: 'epoch' is int$"),
        ({}, r"holds nothing, and no weights of LeViT$"),
        ({"conv1.weight": torch.zeros(2)}, r"holds conv1\.weight, and no weights of LeViT$"),
    ],
)
def test_a_file_without_weights_of_levit_is_refused(
    contents: object, message: str, tmp_path: Path, network: LeViT
) -> None:
    torch.save(contents, tmp_path / "other.pth")
    with pytest.raises(UserError, match=rf"^weights: .*other\.pth: {message}"):
        load_weights(network, tmp_path / "other.pth")


def test_weights_of_another_size_are_refused_by_the_first_shape(network: LeViT) -> None:
    larger = timm_weights("levit_192")
    with pytest.raises(
        UserError,
        match=r"^weights: stem\.conv1\.linear\.weight has shape \(24, 3, 3, 3\), "
        r"and \(16, 3, 3, 3\) in the network$",
    ):
        load_weights(network, larger)
    with pytest.raises(
        UserError, match=r"^weights: patch_embed\.0\.c\.weight has shape \(24, 3, 3, 3\), and"
    ):
        load_weights(network, {"model": official_weights("levit_192", larger)})


def test_weights_for_images_of_another_size_are_refused(network: LeViT) -> None:
    with pytest.raises(UserError, match=r"attention_biases has shape \(4, 256\), and \(4, 196\)"):
        load_weights(network, timm_weights(img_size=256))


def test_missing_tensors_are_counted(network: LeViT, weights: dict[str, Tensor]) -> None:
    del weights["stages.0.blocks.1.attn.qkv.bn.bias"], weights["head.linear.bias"]
    with pytest.raises(
        UserError,
        match=r"^weights: missing tensors: 2, the first is stages\.0\.blocks\.1\.attn\.qkv\.bn\.bias$",
    ):
        load_weights(network, weights)


def test_unexpected_tensors_are_counted(network: LeViT, weights: dict[str, Tensor]) -> None:
    weights |= {"neck.weight": torch.zeros(2), "neck.bias": torch.zeros(2)}
    with pytest.raises(
        UserError,
        match=r"^weights: unexpected tensors: 2, the first is neck\.weight$",
    ):
        load_weights(network, weights)


@pytest.mark.parametrize("layout", ["official", "timm", "ours"])
def test_folded_weights_are_refused_as_such(layout: str, network: LeViT) -> None:
    folded = {
        "ours": fold_batch_norms(network).state_dict(),
        "timm": folded_names(timm_weights(), ".linear.", ".bn."),
        "official": folded_names(official_weights("levit_128s", timm_weights()), ".c.", ".bn."),
    }[layout]
    first = {"official": "patch_embed.0", "timm": "stem.conv1", "ours": "stem.0.0"}[layout]
    with pytest.raises(
        UserError,
        match=rf"^weights: BatchNorm is folded into its neighbours \({first}\.weight\), which cannot ",
    ):
        load_weights(network, folded)


def folded_names(weights: Mapping[str, Tensor], layer: str, norm: str) -> dict[str, Tensor]:
    """The names that are left when every layer is one with its norm, and has a bias."""
    folded: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if norm not in name:
            name = name.replace(layer, ".").replace(".l.", ".")
            folded[name] = tensor
            if name.endswith(".weight"):
                folded.setdefault(f"{name.removesuffix('weight')}bias", tensor[:, 0].flatten())
    return folded


def test_another_number_of_classes_is_refused(network: LeViT) -> None:
    with pytest.raises(UserError, match=r"^weights: is for 10 classes, and the network for 1000$"):
        load_weights(network, timm_weights(num_classes=10))


def test_one_head_for_two_is_refused(network: LeViT) -> None:
    with pytest.raises(
        UserError,
        match=r"^weights: missing second head, head_dist\.linear\.weight; see design\.distillation$",
    ):
        load_weights(network, timm_weights(distilled=False))


def test_two_heads_for_one_are_refused(weights: dict[str, Tensor]) -> None:
    with pytest.raises(
        UserError,
        match=r"^weights: unexpected second head, head_dist\..*; see design\.distillation$",
    ):
        load_weights(build(design=Design(distillation="none")), weights)


REFUSED = [design for design in SINGLE_FLIPS if not {*differences(Design(), design)} <= {*FREE}]


@pytest.mark.parametrize("design", REFUSED, ids=name_of)
def test_another_design_is_refused_by_name(design: Design, weights: dict[str, Tensor]) -> None:
    ((choice, (_, value)),) = differences(Design(), design).items()
    other = build("levit_nano", design)
    expected = rf"^weights: none have been released for design\.{choice}: {str(value).lower()}$"
    with pytest.raises(UserError, match=expected):
        load_weights(other, weights)
    with pytest.raises(UserError, match=expected):
        to_timm(other)


def test_a_folded_network_is_refused(network: LeViT, weights: dict[str, Tensor]) -> None:
    folded = fold_batch_norms(network)
    assert isinstance(folded, LeViT)
    with pytest.raises(UserError, match=r"LeViT and this network differ in .*; was it folded\?$"):
        load_weights(folded, weights)


def test_a_refusal_leaves_the_network_as_it_was(network: LeViT, weights: dict[str, Tensor]) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights["head_dist.linear.bias"] = torch.zeros(999)
    with pytest.raises(UserError, match="is for 999 classes"):
        load_weights(network, weights)
    assert_same_bits(network.state_dict(), before)


# Released weights, by name.


def test_a_released_preset_comes_with_the_weights_that_timm_fetches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = timm.create_model("levit_128s")
    asked: list[tuple[str, bool]] = []

    def create_model(name: str, pretrained: bool) -> torch.nn.Module:
        asked.append((name, pretrained))
        return reference

    monkeypatch.setattr(timm, "create_model", create_model)
    network = pretrained("levit_128s")
    assert asked == [("levit_128s", True)]
    assert_same_bits(to_timm(network), reference.state_dict())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("levit_512", r"^model: no preset is called 'levit_512'; did you mean levit_"),
        (
            "levit_nano",
            r"^model: levit_nano has no released weights; .*valid: levit_128, levit_128s",
        ),
    ],
)
def test_a_preset_without_released_weights_is_refused(model: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pretrained(model)


@pytest.mark.parametrize("reason", ["no route to host\nand more", ""])
def test_a_failing_connection_is_one_line(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def create_model(name: str, pretrained: bool) -> torch.nn.Module:
        raise ConnectionError(reason)

    monkeypatch.setattr(timm, "create_model", create_model)
    first = reason.partition("\n")[0] or "ConnectionError"
    message = rf"^model: the weights of levit_128 cannot be fetched: {first}$"
    with pytest.raises(UserError, match=message):
        pretrained("levit_128")
