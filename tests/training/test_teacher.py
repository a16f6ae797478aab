from __future__ import annotations

import json
from dataclasses import replace

import mlflow
import pytest
import timm
import torch
from safetensors.torch import save_file

from levit_ablate.config import Data, Experiment, Images, Teacher
from levit_ablate.data.datasets import dataset_of
from levit_ablate.errors import UserError
from levit_ablate.experiment import variant
from levit_ablate.keys import teacher_key
from levit_ablate.training import teacher
from levit_ablate.training.teacher import ensure_teacher, teacher_figures
from levit_ablate.training.teacher_cache import LiveTeacher
from levit_ablate.training.train import train

DIGITS = Images(channels=1, height=32, width=32, num_classes=10)
LESSON = {"recipe": {"epochs": 1, "warmup_epochs": 0.0}, "model": "test_resnet"}


def given_weights(path) -> Experiment:
    return Experiment(teacher=Teacher(model="test_resnet", weights=str(path)))


def test_a_teacher_is_trained_once_and_remembered(capsys):
    first = variant("baseline", {"teacher": LESSON})
    path = ensure_teacher(first)
    assert "no teacher for digits yet: training test_resnet" in capsys.readouterr().err
    changed = path.stat().st_mtime_ns
    other = variant("no_hardswish", {"teacher": LESSON, "seed": 5})
    assert ensure_teacher(other) == path and path.stat().st_mtime_ns == changed
    assert capsys.readouterr().err == ""
    figures = json.loads(path.with_suffix(".json").read_text())
    assert figures["model"] == "test_resnet" and 0 <= figures["test_accuracy"] <= 1
    network = teacher.loaded(first.experiment, first.images, path)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert teacher_figures(first, path)["test_loss"] == figures["test_loss"]


def test_a_damaged_teacher_is_named_before_there_is_a_run_and_lost_figures_are_found_anew(store):
    shown = variant("baseline", {"teacher": LESSON})
    path = ensure_teacher(shown)
    figures = teacher_figures(shown, path)
    path.with_suffix(".json").write_text("{", encoding="utf-8")
    assert teacher_figures(shown, path) == pytest.approx(figures)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"teachers/digits-.*\.pt does not hold test_resnet"):
        train(shown)
    assert mlflow.search_runs(output_format="list") == []


def test_without_distillation_there_is_none():
    assert ensure_teacher(variant("no_distillation", {})) is None


def test_another_recipe_is_another_teacher_and_another_seed_is_not():
    first = variant("baseline", {"teacher": LESSON}).experiment
    assert teacher_key(first) == teacher_key(replace(first, seed=9))
    longer = replace(first.teacher, recipe=replace(first.teacher.recipe, epochs=2))
    assert teacher_key(first) != teacher_key(replace(first, teacher=longer))


@pytest.mark.parametrize("form", ["pt", "safetensors", "lightning"])
def test_a_teacher_comes_from_a_local_checkpoint(tmp_path, form):
    network = timm.create_model("test_resnet", in_chans=1, num_classes=10, output_stride=8)
    path = tmp_path / f"weights.{form}"
    if form == "safetensors":
        save_file(network.state_dict(), path)
    else:
        state = network.state_dict()
        torch.save({"state_dict": state} if form == "lightning" else state, path)
    loaded = teacher.loaded(given_weights(path), DIGITS, None)
    images = torch.randn(2, 1, 32, 32)
    assert loaded.eval()(images).equal(network.eval()(images))


def test_a_checkpoint_that_does_not_fit_or_is_not_there_is_a_line(tmp_path):
    torch.save({"head.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt does not hold test_resnet"):
        teacher.loaded(given_weights(tmp_path / "other.pt"), DIGITS, None)
    with pytest.raises(UserError, match=r"teacher\.weights: .*nowhere\.pt is neither trained nor"):
        variant("baseline", {"teacher": {"weights": str(tmp_path / "nowhere.pt")}}).key  # noqa: B018


def test_weights_that_cannot_be_downloaded_are_a_line(monkeypatch):
    def offline(*_, **__):
        raise OSError("network is unreachable")

    monkeypatch.setattr(timm, "create_model", offline)
    experiment = Experiment(teacher=Teacher(model="test_resnet", weights="pretrained"))
    with pytest.raises(UserError, match="timm's weights of test_resnet cannot be had"):
        teacher.loaded(experiment, replace(DIGITS, num_classes=1000), None)


def test_a_pretrained_teacher_is_given_images_as_it_was_trained_on_them(monkeypatch):
    network = timm.create_model("test_vit", num_classes=10, in_chans=3)
    cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    monkeypatch.setattr(network, "pretrained_cfg", cfg)
    monkeypatch.setattr(teacher, "build", lambda *_, **__: network)
    data = Data(name="cifar10")
    weights = Teacher(model="test_vit", weights="pretrained")
    experiment, images = Experiment(data=data, teacher=weights), replace(DIGITS, num_classes=1000)
    asked = teacher.loaded(experiment, images, None).eval()
    pixels, facts = torch.rand(2, 3, 160, 160), dataset_of(data)
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (facts.mean, facts.deviation))
    expected = network.eval()((pixels - 0.5) / 0.5)
    torch.testing.assert_close(asked((pixels - mean) / deviation), expected)
    cfg |= {"mean": facts.mean, "std": facts.deviation}
    assert teacher.loaded(experiment, images, None) is network


def test_a_model_that_timm_does_not_have_is_named_with_the_closest():
    with pytest.raises(UserError, match="timm has no regnety_003; did you mean regnety_0"):
        teacher.build("regnety_003", DIGITS)


def test_small_images_keep_more_resolution_where_the_model_can():
    network = teacher.build("regnety_002", replace(DIGITS, channels=3)).eval()
    assert network.forward_features(torch.zeros(1, 3, 32, 32)).shape[-2:] == (4, 4)
    plain = teacher.build("mobilenetv3_small_050", DIGITS).eval()
    assert plain(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_a_model_of_fixed_size_is_given_the_size_of_the_images():
    network = teacher.build("vit_tiny_patch16_224", DIGITS).eval()
    assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_a_live_teacher_answers_with_probabilities_that_sum_to_one_and_learns_nothing():
    network = teacher.build("test_resnet", DIGITS)
    live = LiveTeacher(network, top_k=3)
    from levit_ablate.data.batches import Batch

    batch = Batch(torch.randn(4, 1, 32, 32), *[torch.zeros(4)] * 4)
    answers = live(batch)
    assert answers.classes.shape == (4, 3)
    torch.testing.assert_close(answers.probabilities.sum(1), torch.ones(4))
    assert answers.classes[:, 0].equal(network(batch.images).argmax(1))
    assert not any(p.requires_grad for p in network.parameters()) and not network.training
