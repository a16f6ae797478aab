"""LeViTModule in a Trainer and with a DataLoader of the user's own."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from levit_ablate.config import Architecture, Data, Design, Hardware, Images, Recipe, Stage
from levit_ablate.data.batches import as_batch
from levit_ablate.data.datamodule import ImageData
from levit_ablate.errors import UserError
from levit_ablate.training.classifier import TrainerWarning
from levit_ablate.training.module import LeViTModule

ALONE = Design(distillation="none")
IMAGES = Images(channels=1, height=32, width=32, num_classes=10)
TINY = Architecture(
    stages=(Stage(depth=1, width=16, num_heads=1),), value_dim=16, stem_depth=3, drop_path=0.2
)


def module_of(design: Design = ALONE, epochs: int = 1, **options: object) -> LeViTModule:
    recipe = options.pop("recipe", Recipe(epochs=epochs, warmup_epochs=0.5))
    return LeViTModule(design=design, architecture=TINY, recipe=recipe, **options)  # type: ignore[arg-type]


def loader(count: int = 32, batch_size: int = 8) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 1, 32, 32, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def trainer_of(epochs: int = 1, **options: object) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"accelerator": "cpu", "max_epochs": epochs, "enable_checkpointing": False} | options
    return Trainer(**quiet, **options)  # type: ignore[arg-type]


class Fixed(nn.Module):
    """A teacher that answers the class of the first pixel's sign."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.asked = 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        classes = (images[:, 0, 0, 0] > 0).long()
        return nn.functional.one_hot(classes, 10) * 9.0 * self.scale


@pytest.mark.parametrize("design", [ALONE, Design(), Design(distillation="soft")])
def test_it_trains_and_validates_on_images_and_labels(design):
    teacher = Fixed()
    module = module_of(design, teacher=None if design == ALONE else teacher)
    before = {k: v.clone() for k, v in module.network.state_dict().items()}
    trainer = trainer_of()
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainerWarning)
        trainer.fit(module, loader(), loader())
    assert {"train_loss", "val_loss", "val_accuracy"} <= trainer.callback_metrics.keys()
    assert any(not v.equal(before[k]) for k, v in module.network.state_dict().items())
    assert teacher.asked == (0 if design == ALONE else 32)
    assert teacher.scale.grad is None and not any("teacher" in key for key in module.state_dict())


def test_it_trains_on_our_own_images_in_any_trainer():
    data = ImageData(Data(), Recipe(epochs=1, warmup_epochs=0.5), Hardware(), seed=0)
    trainer = trainer_of(limit_train_batches=2, use_distributed_sampler=False)
    trainer.fit(module_of(), data)
    assert trainer.callback_metrics["train_loss"].isfinite()


def test_a_teacher_that_is_missing_is_named_with_the_remedy():
    data = ImageData(Data(), Recipe(epochs=1, warmup_epochs=0.5), Hardware(), seed=0)
    for given in ({"train_dataloaders": loader()}, {"datamodule": data}):
        with pytest.raises(UserError, match=r"needs a teacher: give LeViTModule\(teacher=…\)"):
            trainer_of().fit(module_of(Design()), **given)


def test_a_teacher_by_a_name_is_timms():
    with pytest.raises(UserError, match=r"teacher\.model: timm has no regnetty_002"):
        module_of(Design(), teacher="regnetty_002")
    with pytest.raises(UserError, match=r"1,000 classes apart, these images have 10"):
        module_of(Design(), teacher="regnety_002")


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield torch.zeros(1, 32, 32), 0


def test_data_without_a_length_need_the_number_of_steps():
    endless = DataLoader(Endless(), batch_size=4)
    with pytest.raises(UserError, match=r"give Trainer\(max_steps=…, max_epochs=-1\)"):
        trainer_of().fit(module_of(), endless)
    trainer = trainer_of(epochs=-1, max_steps=3)
    with pytest.warns(TrainerWarning, match=r"recipe\.epochs: 1: the trainer ends"):
        trainer.fit(module_of(), endless)
    assert trainer.global_step == 3


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ({}, {"gradient_clip_val": 1.0}, r"gradient_clip_val=1\.0\) has no effect: .*\(norm\)"),
        ({"mixup": 0.8}, {}, r"recipe\.mixup: no effect on a DataLoader of yours"),
        ({"precision": "bf16-mixed"}, {}, r"recipe\.precision: bf16-mixed has no effect"),
        ({"epochs": 5}, {}, r"recipe\.epochs: 5: .*max_epochs 1.* is stretched to that"),
        ({"epochs": 5, "schedule": "epoch"}, {}, r"the learning rate stays one of 5 epochs"),
        (
            {"batch_size": 16, "reference_batch_size": 8, "learning_rate": 1e-3},
            {},
            r"the learning rate, 0\.002, is meant for batches of 16, and the DataLoader's have 8",
        ),
        ({"ema_decay": 0.99}, {}, r"recipe\.ema_decay: 0\.99 averages over 100 steps"),
    ],
)
def test_what_has_no_effect_is_warned_of(recipe, options, said):
    recipe = Recipe(**{"epochs": 1, "warmup_epochs": 0.5, **recipe})
    with pytest.warns(TrainerWarning, match=said):
        trainer_of(**options).fit(module_of(recipe=recipe), loader())


def test_images_that_are_served_by_another_recipe_are_warned_of():
    data = ImageData(Data(), Recipe(epochs=1, warmup_epochs=0.5), Hardware(), seed=0)
    recipe = Recipe(epochs=1, warmup_epochs=0.5, mixup=0.8, batch_size=32)
    trainer = trainer_of(limit_train_batches=1, use_distributed_sampler=False)
    with pytest.warns(TrainerWarning, match=r"recipe\.batch_size, recipe\.mixup: ImageData has"):
        trainer.fit(module_of(recipe=recipe), data)


def test_a_schedule_by_the_epoch_needs_no_number_of_steps():
    recipe = Recipe(epochs=1, warmup_epochs=0.5, schedule="epoch")
    trainer = trainer_of(limit_train_batches=3)
    trainer.fit(module_of(recipe=recipe), DataLoader(Endless(), batch_size=4))
    assert trainer.global_step == 3


def test_a_teacher_whom_no_one_asks_is_refused():
    with pytest.raises(
        UserError, match=r"teacher: no one is asked with design\.distillation: none"
    ):
        module_of(ALONE, teacher=Fixed())


def test_our_batches_stay_where_they_are():
    """On the device already; positions on the CPU, by which a teacher's answers are found."""
    images, labels = next(iter(loader()))
    batch = as_batch((images, labels))
    moved = module_of().transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.positions.device.type == "cpu"
    plain = module_of().transfer_batch_to_device((images, labels), torch.device("meta"), 0)
    assert plain[0].device.type == "meta"


def test_another_batch_is_refused_in_validation_too():
    with pytest.raises(UserError, match=r"\(images, labels\), two tensors"):
        module_of().validation_step({"image": torch.zeros(2, 1, 32, 32)}, 0)


def test_a_module_of_a_model_in_a_file_is_read_where_the_file_is_not(tmp_path, monkeypatch):
    (tmp_path / "ablations" / "models").mkdir(parents=True)
    (tmp_path / "ablations" / "models" / "mine.yaml").write_text(
        "summary: a small one\n"
        "architecture: {stages: [{depth: 1, width: 16, num_heads: 1}], value_dim: 16, stem_depth: 3}\n"
        "images: {channels: 1, height: 32, width: 32, num_classes: 10}\n"
    )
    module = LeViTModule(design=ALONE, model="mine", recipe=Recipe(epochs=1, warmup_epochs=0.5))
    trainer = trainer_of()
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    read = LeViTModule.load_from_checkpoint(tmp_path / "own.ckpt")
    assert (read.images, repr(read.network)) == (module.images, repr(module.network))


def test_the_moving_average_is_kept_in_any_trainer():
    recipe = Recipe(epochs=2, warmup_epochs=0.5, ema_decay=0.3, evaluate="average")
    module = module_of(recipe=recipe)
    trainer = trainer_of(epochs=2)
    trainer.fit(module, loader(), loader())
    assert module.average is not None and module.average.n_averaged == 8
    assert {"val_accuracy", "network_val_accuracy"} <= trainer.callback_metrics.keys()
    trainer.save_checkpoint("own.ckpt")
    read = LeViTModule.load_from_checkpoint(Path("own.ckpt")).eval()
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert read(image).equal(module.eval()(image))
        assert not read(image).equal(read.network(image))


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"image": torch.zeros(2, 1, 32, 32)}, r"\(images, labels\), two tensors, and not dict"),
        ((torch.zeros(2, 1, 32, 32),), "and not tuple"),
        ((torch.zeros(2, 1, 32, 32), torch.zeros(2, 10)), r"not \(2, 10\) float32"),
        ((torch.zeros(2, 1, 32, 32), torch.zeros(3, dtype=torch.int64)), r"\(2,\) int64"),
    ],
)
def test_another_batch_is_refused_in_a_line(batch, said):
    with pytest.raises(UserError, match=said) as caught:
        module_of().training_step(batch, 0)
    assert len(str(caught.value).splitlines()) == 1
