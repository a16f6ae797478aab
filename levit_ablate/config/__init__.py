"""All settings of an experiment, as frozen dataclasses. Imports no torch.

The texts under the fields are the help texts of the command line.
"""

from levit_ablate.config.design import Architecture, Design, Images, Stage
from levit_ablate.config.experiment import (
    OWN_GEOMETRY,
    VARIANT_KEYS,
    Data,
    Experiment,
    Hardware,
    Match,
    Recipe,
    Teacher,
    differences,
)

__all__ = [
    "OWN_GEOMETRY",
    "VARIANT_KEYS",
    "Architecture",
    "Data",
    "Design",
    "Experiment",
    "Hardware",
    "Images",
    "Match",
    "Recipe",
    "Stage",
    "Teacher",
    "differences",
]
