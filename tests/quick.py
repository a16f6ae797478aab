"""Settings of Python's functions with which a training takes seconds."""

from networks import SMALL

QUICK = {
    "architecture": SMALL,
    "recipe": ["smoke", {"batch_size": 128}],
    "hardware": {"accelerator": "cpu"},
}
TEACHER = {"recipe": {"epochs": 1, "warmup_epochs": 0}}
UNDISTILLED = {**QUICK, "design": {"distillation": "none"}}
SWEEP = {"variants": ["no_patch_conv"], "seeds": [0]}
SEARCH = {
    "trials": 2,
    "confirm": 0,
    "sampler": "random",
    "pruner": "none",
    "space": {"width": "4:32:2"},
}
