"""What training minimises: cross-entropy on the labels, and a teacher's answers (paper 4.4).

Shapes: B images, K classes; logits (B, K), labels (B,), teacher's logits (B, K).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, one_hot

TEMPERATURE = 1.0
"""Of soft distillation; the official code's default."""
CONFIDENCE = 10.0
"""Logit of the true label, above the others' zero, in the answers of the teacher `labels`."""


class Objective(Protocol):
    """A scalar loss from the heads' logits, the labels, and the teacher's logits."""

    def __call__(
        self, heads: dict[str, Tensor], labels: Tensor, teacher: Tensor, label_smoothing: float
    ) -> Tensor: ...


def supervised(
    heads: dict[str, Tensor], labels: Tensor, teacher: Tensor, label_smoothing: float
) -> Tensor:
    """Cross-entropy of the one head on the labels (row A4)."""
    return cross_entropy(heads["supervised"], labels, label_smoothing=label_smoothing)


def hard(
    heads: dict[str, Tensor], labels: Tensor, teacher: Tensor, label_smoothing: float
) -> Tensor:
    """½ CE(supervised head, label) + ½ CE(distilled head, the teacher's decision)."""
    distilled = cross_entropy(heads["distilled"], teacher.argmax(dim=1))
    return (supervised(heads, labels, teacher, label_smoothing) + distilled) / 2


def soft(
    heads: dict[str, Tensor], labels: Tensor, teacher: Tensor, label_smoothing: float
) -> Tensor:
    """½ CE(supervised head, label) + ½ τ² KL(teacher ‖ distilled head), both at temperature τ.

    Hinton et al. 2015; weights and temperature as in the official code's `DistillationLoss`,
    except that the divergence is summed over classes and averaged over images alone.
    """
    student = log_softmax(heads["distilled"] / TEMPERATURE, dim=1)
    target = log_softmax(teacher / TEMPERATURE, dim=1)
    divergence = kl_div(student, target, reduction="batchmean", log_target=True)
    loss = supervised(heads, labels, teacher, label_smoothing)
    return (loss + TEMPERATURE**2 * divergence) / 2


OBJECTIVES: dict[str, Objective] = {"hard": hard, "soft": soft, "none": supervised}


def true_labels(images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """A stand-in for a teacher: logits that give the true label nearly all the probability."""
    return CONFIDENCE * one_hot(labels, num_classes).to(torch.float32)


TEACHERS: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {"labels": true_labels}
