"""What cannot be trained is refused in a line, before there is a run or a teacher."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pytest
import torch

from levit_ablate.errors import UserError
from levit_ablate.experiment import variant
from levit_ablate.training import teacher as teachers
from levit_ablate.training.train import check_conditions, train


def refused(given: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        check_conditions(variant("baseline", given).experiment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ({"model": "nosuch"}, r"^teacher\.model: timm has no nosuch"),
        ({"model": "regnety_002.nosuch"}, r"^teacher\.model: regnety_002\.nosuch cannot be built"),
        (
            {"model": "inception_v3"},
            r"^teacher\.model: inception_v3 cannot be built for images of 32x",
        ),
        ({"recipe": {"batch_size": 5000}}, r"^teacher\.recipe\.batch_size: 5000 is more than the"),
        ({"recipe": {"rand_augment": "x"}}, r"^teacher\.recipe\.rand_augment: 'x'"),
        (
            {"weights": "pretrained"},
            r"timm's weights of test_resnet tell 1,000 classes apart, .* 10",
        ),
        ({"weights": "pretrained", "model": "nosuch"}, r"^teacher\.model: timm has no nosuch"),
        ({"weights": "pretrained", "model": "test_vit3"}, r"^teacher\.weights: .* 1,000 classes"),
        ({"weights": "pretrained", "model": "efficientnet_b7"}, "timm has no weights of eff"),
        ({"weights": "traned"}, "^teacher.weights: traned is neither trained nor pretrained"),
        ({"weights": "."}, r"^teacher.weights: \. is neither trained nor pretrained"),
    ],
)
def test_a_teacher_that_cannot_be_had_is_refused(teacher, said):
    refused({"teacher": {"model": "test_resnet"} | teacher}, said)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"no weights", b"PK\x03\x04 no archive", b"\x80\x02."], ids=repr
)
def test_a_file_of_weights_that_is_none_is_named(suffix, content):
    path = Path(f"weights{suffix}")
    path.write_bytes(content)
    said = rf"^teacher\.weights: weights{suffix} does not hold test_resnet: \S"
    refused({"teacher": {"model": "test_resnet", "weights": str(path)}}, said)


@pytest.mark.parametrize("saved", [[1, 2], "text", {"state_dict": 3}, torch.zeros(3)], ids=repr)
def test_a_checkpoint_of_something_else_is_named(saved):
    torch.save(saved, "weights.pt")
    refused(
        {"teacher": {"model": "test_resnet", "weights": "weights.pt"}},
        r"^teacher\.weights: weights\.pt does not hold test_resnet: \S",
    )


def test_none_of_it_leaves_a_run_behind(store):
    Path("weights.pt").write_bytes(b"")
    with pytest.raises(UserError, match=r"teacher\.weights"):
        train(variant("baseline", {"teacher": {"weights": "weights.pt"}}))
    assert mlflow.search_runs(output_format="list") == []


def test_what_the_driver_checks_is_not_checked_again(store, monkeypatch):
    Path("weights.pt").write_bytes(b"")
    given = {"teacher": {"weights": "weights.pt"}}
    checked = []
    monkeypatch.setattr("levit_ablate.training.train.check_teacher", checked.append)
    check_conditions(variant("baseline", given).experiment)
    assert len(checked) == 1
    with pytest.raises(UserError, match=r"teacher\.weights"):
        train(variant("baseline", given))
    assert len(checked) == 1


def test_a_teacher_of_other_classes_is_asked_by_no_training(store):
    """Also where no driver has checked: timm would give it an untrained head."""
    given = {"teacher": {"model": "test_resnet", "weights": "pretrained"}}
    with pytest.raises(UserError, match=r"tell 1,000 classes apart, these images have 10"):
        train(variant("baseline", given))
    assert mlflow.search_runs(output_format="list") == []


def test_weights_that_cannot_be_fetched_leave_no_run_behind(store, monkeypatch):
    def offline(*_, **__):
        raise OSError("network is unreachable")

    monkeypatch.setattr(teachers, "check_pretrained", lambda *_: None)
    monkeypatch.setattr(teachers, "build", offline)
    with pytest.raises(UserError, match="timm's weights of test_resnet cannot be had"):
        train(variant("baseline", {"teacher": {"weights": "pretrained"}}))
    assert mlflow.search_runs(output_format="list") == []


def test_without_distillation_the_teacher_does_not_matter():
    given = {"teacher": {"model": "nosuch"}, "design": {"distillation": "none"}}
    check_conditions(variant("baseline", given).experiment)
