import torch
from torch.nn.functional import cross_entropy, one_hot, softmax

from levit_ablate.config import Design, Recipe
from levit_ablate.data.batches import Batch
from levit_ablate.training.module import LeViTModule
from levit_ablate.training.teacher_cache import Answers

HEADS = {"supervised": torch.randn(6, 5), "distilled": torch.randn(6, 5)}
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
TEACHER = softmax(torch.randn(6, 5), 1)
TOP = TEACHER.topk(5)
ANSWERS = Answers(TOP.indices, TOP.values)


def batch(share: torch.Tensor | None = None) -> Batch:
    share = torch.ones(6) if share is None else share
    return Batch(torch.empty(6, 1, 2, 2), LABELS, LABELS.flip(0), share, torch.arange(6))


def loss_of(
    distillation: str, heads: dict, batch: Batch, answers, smoothing: float
) -> torch.Tensor:
    recipe = Recipe(label_smoothing=smoothing)
    module = LeViTModule(design=Design(distillation=distillation), recipe=recipe)
    return module.loss(heads, batch, answers)


def test_without_distillation_the_loss_is_the_cross_entropy_of_the_one_head():
    loss = loss_of("none", {"supervised": HEADS["supervised"]}, batch(), None, 0.1)
    expected = cross_entropy(HEADS["supervised"], LABELS, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)


def test_mixed_images_have_the_labels_of_both_by_their_shares():
    share = torch.tensor([1.0, 0.7, 0.5, 0.3, 0.1, 0.0])
    loss = loss_of("none", HEADS, batch(share), None, 0.1)
    smooth = 0.9 * one_hot(LABELS, 5) + 0.1 / 5
    partner = 0.9 * one_hot(LABELS.flip(0), 5) + 0.1 / 5
    targets = share[:, None] * smooth + (1 - share[:, None]) * partner
    expected = -(targets * HEADS["supervised"].log_softmax(1)).sum(1).mean()  # timm's SoftTarget
    torch.testing.assert_close(loss, expected)


def test_hard_distillation_is_half_labels_and_half_the_teachers_decision():
    loss = loss_of("hard", HEADS, batch(), ANSWERS, 0.1)
    labels = cross_entropy(HEADS["supervised"], LABELS, label_smoothing=0.1)
    decision = cross_entropy(HEADS["distilled"], TEACHER.argmax(1))
    torch.testing.assert_close(loss, 0.5 * labels + 0.5 * decision)


def test_soft_distillation_is_half_labels_and_half_the_divergence_from_the_teacher():
    loss = loss_of("soft", HEADS, batch(), ANSWERS, 0.0)
    student = softmax(HEADS["distilled"], 1)
    divergence = (TEACHER * (TEACHER / student).log()).sum() / len(LABELS)
    expected = 0.5 * cross_entropy(HEADS["supervised"], LABELS) + 0.5 * divergence
    torch.testing.assert_close(loss, expected)


def test_soft_distillation_from_an_equal_head_has_no_divergence():
    heads = HEADS | {"distilled": TEACHER.log()}
    labels = cross_entropy(HEADS["supervised"], LABELS)
    torch.testing.assert_close(loss_of("soft", heads, batch(), ANSWERS, 0.0), labels / 2)
