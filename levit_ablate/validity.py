"""The check that an ablation changes something, before anything is trained."""

from __future__ import annotations

import torch

from levit_ablate.errors import UserError
from levit_ablate.experiment import Variant
from levit_ablate.models.levit import LeViT


def check_changes(variant: Variant) -> None:
    """Refuse a variant whose network and objective are the baseline's.

    Compares the built networks (their modules, and the weights that they start from) rather than
    the settings, so that a choice without effect on this geometry is found too. Raises UserError.
    """
    base = variant.baseline
    if (
        base is None
        or base.experiment.design.distillation != variant.experiment.design.distillation
    ):
        return
    if not variant.differences():
        raise UserError(
            f"{variant.name}: changes nothing: every choice in {variant.ablation.path}, with the "
            f"options given, is the baseline's already; change one"
        )
    if _same_network(variant, base):
        changed = ", ".join(variant.differences())
        raise UserError(
            f"{variant.name}: changes nothing: with model {variant.experiment.model}, {changed} "
            f"leaves the network and the objective of the baseline as they are"
        )


def _same_network(first: Variant, second: Variant) -> bool:
    networks = [LeViT(v.architecture, v.experiment.design, v.images) for v in (first, second)]
    if repr(networks[0]) != repr(networks[1]):
        return False
    if first.architecture.drop_path != second.architecture.drop_path:
        return False
    states = [network.state_dict() for network in networks]
    return all(torch.equal(value, states[1][name]) for name, value in states[0].items())
