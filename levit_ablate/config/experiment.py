"""Everything that decides a run's outcome beside the network: images, recipe, teacher; hardware."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from levit_ablate.config.design import Architecture, Design, check_literals, check_range
from levit_ablate.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Data:
    """The images: which, where they lie, and how they are split."""

    name: Literal["digits", "cifar10", "cifar100", "fashion_mnist", "folder"] = "digits"
    """The dataset: `digits` ships with scikit-learn (1,797 handwritten digits); `cifar10`,
    `cifar100` and `fashion_mnist` come through torchvision; `folder` is any in the ImageNet layout:
    train/CLASS/IMAGE with val/ (or valid/, validation/) or test/ beside it."""

    root: str = "data"
    """Folder of the dataset: torchvision's are found there, or downloaded to it once."""

    image_size: int = 32
    """Side in pixels that the images are brought to."""

    validation: float = 0.1
    """Share of the training images that is held out for validation, where the set has no
    validation images of its own."""

    split_seed: int = 0
    """Seed of what is held out."""

    seed: int | None = None
    """Seed of the data stream (order, crops, mixing); the run's seed unless set."""

    on_error: Literal["stop", "skip"] = "stop"
    """Stop before training where an image of a folder cannot be read, or leave the image out."""

    fingerprint: str = ""
    """Hash of the names and contents of a folder's images, or of Fashion-MNIST's files; found out,
    not chosen. A recorded experiment has it, and refuses other images."""

    def __post_init__(self) -> None:
        check_literals(self)
        check_range(self, 8, "image_size", high=1024)
        check_range(self, 0, "split_seed", high=2**32 - 1)
        check_range(self, 0, "validation", above=True, high=0.9)
        if self.seed is not None:
            check_range(self, 0, "seed", high=2**32 - 1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained. The defaults are small; `--recipe paper` is the official code's."""

    epochs: int = 20
    """Passes over the training images."""

    batch_size: int = 64
    """Images in a training step, over all devices together."""

    learning_rate: float = 3e-3
    """The highest learning rate, reached at the end of the warm-up."""

    reference_batch_size: int = 0
    """The batch that `learning_rate` is meant for: the rate used is scaled with
    batch_size / reference_batch_size. 0: it is used as it is."""

    warmup_epochs: float = 2.0
    """Epochs over which the learning rate rises to its highest."""

    warmup_learning_rate: float = 1e-6
    """Where the warm-up begins."""

    final_learning_rate: float = 1e-5
    """Where the cosine ends."""

    schedule: Literal["step", "epoch"] = "step"
    """How often the learning rate changes: with every step, or, as in the official code, with every
    epoch."""

    weight_decay: float = 0.025
    """Decay of matrices and kernels; never of biases, norms, positions and tokens."""

    label_smoothing: float = 0.1
    """Share of the label's probability that is spread over all classes."""

    clipping: Literal["norm", "adaptive", "none"] = "norm"
    """Gradients are clipped by their norm, or adaptively: each unit's by the norm of its weights
    (Brock et al. 2021)."""

    clip: float = 1.0
    """The norm, or the share of the weights' norm, that gradients are clipped to."""

    ema_decay: float = 0.0
    """Decay, a step, of a moving average of the weights. 0: none, unless `ema_horizon` is set."""

    ema_horizon: float = 0.0
    """The average's time constant as a share of the training, where `ema_decay` is 0: the decay
    follows the number of steps, 1 - 1 / (ema_horizon * steps)."""

    evaluate: Literal["network", "average"] = "network"
    """Which weights are validated, tested and kept: the network's own, or their moving average. The
    metrics of the other, where there is an average, are recorded beside them."""

    crop: bool = True
    """Random crops: padded by an eighth of the side for images in memory, resized (8 to 100 % of
    the area) for images decoded from files, as in the official code."""

    flip: float = 0.5
    """Probability that an image is mirrored."""

    color_jitter: float = 0.0
    """Strength of random brightness, contrast and saturation. As in timm it has no effect beside
    `rand_augment`."""

    rand_augment: str = ""
    """RandAugment in timm's notation, rand-m9-mstd0.5-inc1 in the paper. Empty: none."""

    erasing: float = 0.0
    """Probability that a rectangle of an image is replaced by noise."""

    mixup: float = 0.0
    """Alpha of mixup's beta distribution. 0: none."""

    cutmix: float = 0.0
    """Alpha of cutmix's beta distribution. 0: none."""

    cutmix_probability: float = 0.5
    """Probability of cutmix where both are on."""

    mixing_group: int = 256
    """Images that share one coefficient of mixing: the official code's batch of a GPU. A smaller
    batch is one group."""

    repeats: int = 1
    """Views of an image in a batch (repeated augmentation); an epoch stays as long, with fewer
    images."""

    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """Number format of the training step, in Lightning's words; `auto` is bf16-mixed where the
    hardware is fast at it, else 32-true. It changes the outcome, so it stands here."""

    def __post_init__(self) -> None:
        check_literals(self)
        check_range(self, 1, "epochs", "mixing_group", "repeats")
        check_range(self, 2, "batch_size")
        check_range(self, 0, "learning_rate", "clip", above=True)
        check_range(self, 0, "warmup_epochs", "weight_decay", "reference_batch_size")
        check_range(self, 0, "warmup_learning_rate", "final_learning_rate", "mixup", "cutmix")
        check_range(self, 0, "label_smoothing", high=0.99)
        check_range(self, 0, "ema_decay", high=0.999999)
        check_range(self, 0, "ema_horizon", high=1)
        check_range(self, 0, "flip", "erasing", "cutmix_probability", high=1)
        check_range(self, 0, "color_jitter", high=1)
        if self.warmup_epochs > self.epochs:
            raise UserError(
                f"recipe.warmup_epochs: {self.warmup_epochs} is more than recipe.epochs: "
                f"{self.epochs}; lower it, or train longer"
            )
        if self.evaluate == "average" and not (self.ema_decay or self.ema_horizon):
            raise UserError(
                "recipe.evaluate: average: there is none; set recipe.ema_horizon (0.05) or "
                "recipe.ema_decay, or evaluate the network"
            )


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The network that the distilled head learns from. No part of the key without distillation."""

    model: str = "regnety_002"
    """A model of timm's, by its name."""

    weights: str = "trained"
    """`trained`: from scratch on this dataset, once, and remembered; `pretrained`: timm's; or a
    file: a checkpoint of the model."""

    top_k: int = 10
    """Classes whose probabilities are kept of an answer, for soft distillation."""

    recipe: Recipe = field(default_factory=Recipe)
    """How a `trained` teacher is trained."""

    def __post_init__(self) -> None:
        check_range(self, 1, "top_k", high=1000)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where it runs. No part of an experiment's key, but for the images that a BatchNorm sees."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """The kind of device; `auto` takes a GPU where there is one."""

    devices: int = 1
    """Devices of a host. They share the recipe's batch."""

    num_nodes: int = 1
    """Hosts."""

    accumulate: int = 1
    """Parts that a device takes its share of a batch in, one after the other, to fit in memory."""

    sync_batchnorm: bool = False
    """BatchNorm over the whole batch, not a device's share of it."""

    compile: bool = False
    """Compile the network with torch.compile."""

    num_threads: int = 0
    """CPU threads of torch. 0: one for networks under ten million multiply-adds, which gain nothing
    from a second, and torch's own choice for larger ones."""

    num_workers: int = -1
    """Processes of a device that decode images from files; -1: as many as there are cores for.
    Images that fit in memory need none."""

    work_dir: str = ".levit_ablate"
    """Folder for checkpoints of unfinished runs, teachers and their answers, and indexes of image
    folders. Processes that share it share the work."""

    def __post_init__(self) -> None:
        check_literals(self)
        check_range(self, 0, "num_threads")
        check_range(self, 1, "devices", "num_nodes", "accumulate")
        check_range(self, -1, "num_workers")
        if not self.work_dir.strip():
            raise UserError("hardware.work_dir: is empty; name a folder")


Match = Literal["none", "flops", "params"]
"""Cost of the baseline that a variant's geometry is rescaled to."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides the outcome of a run, and the hardware, which does not."""

    model: str = "levit_nano"
    """The geometry to start from, of the ablation and of its baseline: a model's name, of those
    that ship or of a file in ./ablations/models."""

    architecture: Architecture | None = None
    """The geometry itself, in place of the model's, for the ablation and for its baseline."""

    design: Design = field(default_factory=Design)
    """The design choices."""

    match: Match = "none"
    """Rescale widths and key dimensions until this cost is the baseline's again. Unless set, what
    the ablation's file says."""

    data: Data = field(default_factory=Data)
    """The images."""

    recipe: Recipe = field(default_factory=Recipe)
    """The training."""

    teacher: Teacher = field(default_factory=Teacher)
    """The network that the distilled head learns from."""

    seed: int = 0
    """Seed of the initialisation, and of the data stream."""

    hardware: Hardware = field(default_factory=Hardware)
    """Where it runs."""

    def __post_init__(self) -> None:
        check_literals(self)
        check_range(self, 0, "seed", high=2**32 - 1)


OWN_GEOMETRY = "own geometry"
"""The model of an experiment whose geometry was given and is no model's."""

VARIANT_KEYS = ("design", "match")
"""The parts of an experiment that make the variant; all others it shares with its baseline, the
geometry before matching too."""


def differences(first: Any, second: Any) -> dict[str, tuple[Any, Any]]:
    """The fields in which two configs of one class differ: name → (first's value, second's)."""
    pairs = {f.name: (getattr(first, f.name), getattr(second, f.name)) for f in fields(first)}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
