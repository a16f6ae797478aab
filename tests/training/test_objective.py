import torch
from torch.nn.functional import cross_entropy, softmax

from levit_ablate.training.objective import OBJECTIVES, true_labels

HEADS = {"supervised": torch.randn(6, 5), "distilled": torch.randn(6, 5)}
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
TEACHER = torch.randn(6, 5)


def test_without_distillation_the_loss_is_the_cross_entropy_of_the_one_head():
    loss = OBJECTIVES["none"]({"supervised": HEADS["supervised"]}, LABELS, TEACHER, 0.1)
    expected = cross_entropy(HEADS["supervised"], LABELS, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)


def test_hard_distillation_is_half_labels_and_half_the_teachers_decision():
    loss = OBJECTIVES["hard"](HEADS, LABELS, TEACHER, 0.1)
    labels = cross_entropy(HEADS["supervised"], LABELS, label_smoothing=0.1)
    decision = cross_entropy(HEADS["distilled"], TEACHER.argmax(1))
    torch.testing.assert_close(loss, 0.5 * labels + 0.5 * decision)


def test_soft_distillation_is_half_labels_and_half_the_divergence_from_the_teacher():
    loss = OBJECTIVES["soft"](HEADS, LABELS, TEACHER, 0.0)
    teacher, student = softmax(TEACHER, 1), softmax(HEADS["distilled"], 1)
    divergence = (teacher * (teacher / student).log()).sum() / len(LABELS)
    expected = 0.5 * cross_entropy(HEADS["supervised"], LABELS) + 0.5 * divergence
    torch.testing.assert_close(loss, expected)


def test_soft_distillation_from_an_equal_head_has_no_divergence():
    heads = HEADS | {"distilled": TEACHER}
    labels = cross_entropy(HEADS["supervised"], LABELS)
    torch.testing.assert_close(OBJECTIVES["soft"](heads, LABELS, TEACHER, 0.0), labels / 2)


def test_the_true_labels_as_a_teacher_decide_for_the_label_and_nearly_all_of_its_probability():
    answer = true_labels(torch.empty(6, 1, 2, 2), LABELS, 5)
    assert answer.argmax(1).equal(LABELS)
    assert softmax(answer, 1).max(1).values.min() > 0.999
