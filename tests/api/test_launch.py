"""Jobs run where and as their caller does."""

from __future__ import annotations

import contextlib
import sys
from multiprocessing.spawn import get_preparation_data
from types import SimpleNamespace

from processes import says_who

import levit_ablate as la
from levit_ablate.api import launch


def test_a_job_has_the_environment_of_its_caller_and_not_of_the_first_one(tmp_path, monkeypatch):
    said = []
    for who in ("first", "second"):
        monkeypatch.setenv("WHO", who)
        hardware = la.Hardware(accelerator="cpu", work_dir=str(tmp_path))
        launcher = launch.Places(jobs=1).launch(says_who, hardware, "sqlite:///mlflow.db")
        with contextlib.closing(launcher):
            launcher.start(SimpleNamespace(log="job"))
            while not (events := launcher.events(1)):
                pass
        said.append(events[-1].news.error.split()[0])
    assert said == ["first", "second"]


def test_jobs_import_no_script_of_the_callers():
    """A script without `if __name__ == "__main__"` would run once more in every job."""
    with launch._without_main():
        prepared = get_preparation_data("job")
    assert not {"init_main_from_name", "init_main_from_path"} & prepared.keys()
    assert sys.modules["__main__"].__dict__.get("__builtins__")
