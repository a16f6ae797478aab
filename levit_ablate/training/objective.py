"""Loss functions: cross-entropy on the labels, and on a teacher's answers (paper 4.4).

Shapes: B images, K classes; logits (B, K).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, one_hot

from levit_ablate.data.batches import Batch


class Answers(NamedTuple):
    """A teacher's answers to a batch: its k most probable classes."""

    classes: Tensor
    """(B, k) int64, the most probable first; k is 1 for hard distillation."""
    probabilities: Tensor
    """(B, k) float32, their probabilities, which sum to one."""


class Objective(Protocol):
    """Scalar loss of the heads' logits, the batch, and the teacher's answers."""

    def __call__(
        self,
        heads: dict[str, Tensor],
        batch: Batch,
        answers: Answers | None,
        label_smoothing: float,
    ) -> Tensor: ...


def label_loss(logits: Tensor, batch: Batch, label_smoothing: float) -> Tensor:
    """Cross-entropy on the labels of each image and of its mixing partner, by their shares."""
    num_classes = logits.shape[1]
    share = batch.share[:, None]
    own, partner = (one_hot(each, num_classes) for each in (batch.labels, batch.partner_labels))
    targets = own * share + partner * (1 - share)
    return cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)


def supervised(
    heads: dict[str, Tensor], batch: Batch, answers: Answers | None, label_smoothing: float
) -> Tensor:
    """Cross-entropy of the one head on the labels (row A4)."""
    return label_loss(heads["supervised"], batch, label_smoothing)


def hard(
    heads: dict[str, Tensor], batch: Batch, answers: Answers | None, label_smoothing: float
) -> Tensor:
    """½ CE(supervised head, labels) + ½ CE(distilled head, the teacher's decision)."""
    assert answers is not None
    distilled = cross_entropy(heads["distilled"].float(), answers.classes[:, 0])
    return (supervised(heads, batch, answers, label_smoothing) + distilled) / 2


def soft(
    heads: dict[str, Tensor], batch: Batch, answers: Answers | None, label_smoothing: float
) -> Tensor:
    """½ CE(supervised head, labels) + ½ KL(teacher ‖ distilled head).

    Hinton et al. 2015, with the weights and the temperature of 1 of `DistillationLoss` in the
    official code. There the divergence is averaged over classes too; here it is summed over the
    teacher's k most probable classes, and averaged over images.
    """
    assert answers is not None
    student = log_softmax(heads["distilled"].float(), dim=1).gather(1, answers.classes)
    teacher = answers.probabilities
    divergence = (teacher * (teacher.clamp(min=1e-12).log() - student)).sum(dim=1).mean()
    return (supervised(heads, batch, answers, label_smoothing) + divergence) / 2


OBJECTIVES: dict[str, Objective] = {"hard": hard, "soft": soft, "none": supervised}
