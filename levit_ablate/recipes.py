"""The recipes by name: `--recipe paper`. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from levit_ablate.config import Recipe

PAPER = Recipe(
    epochs=100,
    batch_size=2048,
    learning_rate=5e-4,
    reference_batch_size=512,
    warmup_epochs=5.0,
    warmup_learning_rate=1e-6,
    final_learning_rate=1e-5,
    schedule="epoch",
    weight_decay=0.025,
    label_smoothing=0.1,
    clipping="adaptive",
    clip=0.01,
    ema_decay=0.99996,
    crop=True,
    flip=0.5,
    color_jitter=0.4,
    rand_augment="rand-m9-mstd0.5-inc1",
    erasing=0.25,
    mixup=0.8,
    cutmix=1.0,
    cutmix_probability=0.5,
    mixing_group=256,
    repeats=3,
    precision="32-true",
)
"""The official code's defaults, each explained in docs/recipes.md; drop path is the model's."""

RECIPES = {
    "quick": Recipe(
        epochs=30,
        batch_size=32,
        clipping="adaptive",
        clip=0.05,
        ema_horizon=0.05,
        evaluate="average",
        flip=0.0,
        rand_augment="rand-m1-n1-mstd0.5-inc1",
        erasing=0.1,
        mixup=0.1,
        cutmix=0.1,
        repeats=2,
        precision="32-true",
    ),
    "smoke": Recipe(epochs=2, warmup_epochs=1.0, crop=False, flip=0.0, precision="32-true"),
    "cifar": Recipe(
        epochs=30,
        batch_size=128,
        learning_rate=2e-3,
        warmup_epochs=3.0,
        clipping="adaptive",
        clip=0.05,
        ema_horizon=0.05,
        evaluate="average",
        rand_augment="rand-m5-mstd0.5-inc1",
        erasing=0.1,
        mixup=0.2,
        cutmix=1.0,
        repeats=2,
    ),
    "paper": PAPER,
    "paper_1000": replace(PAPER, epochs=1000, batch_size=8192),
}
"""quick: a minute a run on the digits, which are not to be mirrored. smoke: two epochs, to see that
everything runs. cifar: the paper's parts on small photographs, for two CPU cores or a small GPU.
paper: the ablation table. paper_1000: the released models."""
