"""`levit-ablate run` without an option: what a newcomer sees first."""

import json

from levit_ablate.cli.main import run_command


def test_the_baseline_reaches_97_percent_on_the_held_out_quarter(store, capsys):
    assert run_command(["run", "baseline", "--format", "json", "--tracking-uri", store]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"] >= 0.97
