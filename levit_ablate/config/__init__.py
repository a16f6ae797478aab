"""What an experiment is: frozen data, and nothing else. Imports no torch.

The texts under the fields are the help texts of the command line.
"""

from levit_ablate.config.design import Architecture, Design, Images, Stage
from levit_ablate.config.experiment import (
    OWN_GEOMETRY,
    VARIANT_KEYS,
    Experiment,
    Hardware,
    Match,
    differences,
)
from levit_ablate.config.training import Data, Recipe, Teacher

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
