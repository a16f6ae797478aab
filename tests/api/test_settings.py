"""Settings are the words of the command line; a mistake is an error in one line."""

from __future__ import annotations

import pytest

import levit_ablate as la


def test_settings_are_names_mappings_objects_and_lists_of_them():
    said = [
        la.variant("no_pyramid", recipe=recipe, design=design, data=data)
        for recipe, design, data in (
            (["smoke", {"epochs": 3}], {"stem": "patch"}, "digits"),
            ([{"epochs": 9}, "smoke", la.Recipe(epochs=3)], la.Design(stem="patch"), la.Data()),
        )
    ]
    assert said[0].key == said[1].key
    assert said[0].experiment.recipe.epochs == 3 and not said[0].experiment.design.pyramid


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: la.run("no_pyramd"), "did you mean no_pyramid"),
        (lambda: la.run("no_pyramid", recip={}), "unknown key recip; did you mean recipe"),
        (lambda: la.run("no_pyramid", recipe={"epoch": 3}), "recipe.epoch; did you mean epochs"),
        (lambda: la.run("no_pyramid", recipe="smok"), "recipe: 'smok' is neither a YAML file nor"),
        (lambda: la.run("no_pyramid", recipe=3), "recipe: 3 is no mapping"),
        (lambda: la.run("no_pyramid", data="digit"), "did you mean digits"),
        (lambda: la.run("no_pyramid", design="x.yaml"), "x.yaml: cannot be read"),
        (lambda: la.run("no_patch_conv", design={"stem": "convolution"}), "changes nothing"),
        (lambda: la.run("no_pyramid", recipe={"batch_size": 5000}), "more than the 1,212"),
        (lambda: la.run("no_pyramid", tracking_uri="http://127.0.0.1:9"), "cannot be opened"),
        (lambda: la.network("no_pyramid", model="levit_129"), "no preset is called"),
        (lambda: la.sweep("papre"), "did you mean paper"),
        (lambda: la.sweep("paper", seed=3), "a study has seeds"),
        (lambda: la.sweep("paper", seeds=0), "seeds: 0: at least one is needed"),
        (lambda: la.sweep("paper", seeds=[1, 1]), "none twice"),
        (lambda: la.sweep("paper", variants=["no_pyramyd"]), "did you mean no_pyramid"),
        (lambda: la.sweep("paper", jobs_per_device=0), "jobs_per_device: 0"),
        (lambda: la.sweep("paper", launcher="slurm"), "valid: local, ray"),
        (lambda: la.sweep("paper", address="auto"), "address: is of a Ray"),
        (lambda: la.open_study("from_deit"), "from_deit: nothing is recorded"),
        (lambda: la.search("equal_flop"), "did you mean equal_flops"),
        (lambda: la.search("equal_flops", trials=0), "trials: 0"),
        (lambda: la.search("equal_flops", trial_epochs=0), "trial_epochs: 0"),
        (lambda: la.search("equal_flops", space={"dept": 3}), "did you mean depth"),
        (lambda: la.search("equal_flops", sampler="foo"), "sampler: 'foo' is not a choice"),
        (lambda: la.open_search("flags"), "nothing was searched yet"),
    ],
)
def test_a_mistake_is_a_user_error_in_one_line(call, said, new_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new_store(tmp_path)
    monkeypatch.setattr(
        "levit_ablate.runner.local.LocalLauncher.prepare", staticmethod(lambda work: None)
    )
    with pytest.raises(la.UserError) as raised:
        call()
    assert said in str(raised.value) and "\n" not in str(raised.value)
