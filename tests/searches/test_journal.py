"""The journal of a search: no killed process, and no cut line, keeps others from going on."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState
from processes import Started, result_of, wait_for
from searching import search

from levit_ablate.errors import RunError
from levit_ablate.searches.storage import journal_storage

APPENDS_FOR_EVER = """
import sys, time
from pathlib import Path
from levit_ablate.searches.storage import Journal
journal = Journal(Path(sys.argv[1]))
journal._lock.acquire()
with open(sys.argv[1], "ab") as file:
    file.write(b'{"op_code":8,"worker_id":"gone","trial')
print("it holds the lock", flush=True)
time.sleep(10_000)
"""


def study_in(path: Path) -> optuna.Study:
    return optuna.create_study(
        storage=journal_storage(path), study_name="x", load_if_exists=True, direction="maximize"
    )


def journal(path: Path, trials: int = 3) -> Path:
    """A journal of a study with a few trials, of which each has all kinds of lines."""
    study = study_in(path)
    for _ in range(trials):
        trial = study.ask()
        trial.suggest_int("depth", 1, 4)
        trial.set_user_attr("host", "här")
        trial.report(0.5, step=1)
        study.tell(trial, 0.9)
    return path


def killed_while_it_appends(path: Path) -> None:
    process = Started(APPENDS_FOR_EVER, path)
    wait_for(lambda: "it holds the lock" in process.said()[0], process)
    process.kill()


def test_a_search_goes_on_after_a_worker_that_was_killed_while_it_appended(tmp_path):
    words = ("--recipe.epochs", "1", "--recipe.warmup_epochs", "0")
    assert result_of(search(tmp_path, *words, "--trials", "1"))["counts"] == {"complete": 1}
    (path,) = (tmp_path / ".levit_ablate" / "searches").glob("*.journal")
    killed_while_it_appends(path)
    # and the link of an earlier version, which leads nowhere: it was made with a relative path
    Path(f"{path}.lock").symlink_to(path.relative_to(tmp_path))
    assert not path.read_bytes().endswith(b"\n")
    assert result_of(search(tmp_path, *words, "--trials", "2"))["counts"] == {"complete": 2}
    assert [json.loads(line) for line in path.read_text().splitlines()]


def test_a_link_of_an_earlier_version_that_leads_to_the_journal_leaves_it_whole(tmp_path):
    path = journal(tmp_path / "x.journal")
    before = path.read_bytes()
    Path(f"{path}.lock").symlink_to(path)
    assert len(study_in(path).trials) == 3
    assert path.read_bytes().startswith(before)


def test_a_process_that_writes_already_goes_on_after_another_was_killed(tmp_path):
    path = journal(tmp_path / "x.journal")
    study = study_in(path)
    killed_while_it_appends(path)
    assert len(study.trials) == 3  # what is not whole is not read
    study.tell(study.ask(), 0.1)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
    assert len(study_in(path).trials) == 4


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """A journal of three trials."""
    return journal(tmp_path_factory.mktemp("whole") / "x.journal").read_bytes()


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_journal_that_is_cut_anywhere_keeps_its_whole_lines_and_goes_on(whole, tmp_path, data):
    path = tmp_path / "x.journal"
    at = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:at])
    kept = whole[: whole[:at].rfind(b"\n") + 1]
    study = study_in(path)
    before = len(study.trials)
    study.tell(study.ask(), 0.1)
    assert path.read_bytes().startswith(kept)
    assert len(path.read_bytes()[len(kept) :].splitlines()) >= 2  # asked, told
    assert all(json.loads(line) for line in path.read_bytes().splitlines())
    assert len(study_in(path).trials) == before + 1
    assert study_in(path).trials[-1].value == 0.1


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_journal_that_is_damaged_anywhere_opens_or_is_an_error_that_names_the_line(
    whole, tmp_path, data
):
    path = tmp_path / "x.journal"
    at = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.binary(min_size=1, max_size=8))
    path.write_bytes(whole[:at] + damage + whole[at + len(damage) :])
    try:
        study_in(path)
    except RunError as error:
        said = str(error)
        assert said.startswith(f"{path}:") and "the line is damaged" in said and "\n" not in said
        kept = int(said.partition("head -n ")[2].partition(")")[0])
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))
        study_in(path)  # what is said to be done helps


def test_a_damaged_line_is_named_by_its_number(tmp_path, whole):
    path = tmp_path / "x.journal"
    lines = whole.splitlines(keepends=True)
    for damage in (
        b'{"op_code":4,"study_id"{"op_code":8}\n',
        b"\0\0\0\0\n",
        b"\xff\n",
        b"3\n",
        b"{}\n",
    ):
        path.write_bytes(b"".join([*lines[:4], damage, *lines[5:]]))
        with pytest.raises(
            RunError, match=r"x\.journal:5: .*keep the lines before it \(head -n 4\)"
        ):
            journal_storage(path)


@pytest.mark.parametrize("damage", [b"{garb\n", b"\n", b"{garb"])
def test_nothing_is_written_behind_a_damaged_last_line(tmp_path, whole, damage):
    path = tmp_path / "x.journal"
    path.write_bytes(whole)
    study = study_in(path)
    with path.open("ab") as file:
        file.write(damage)
    study.tell(study.ask(), 0.1)
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_bytes().splitlines())
    assert [trial.value for trial in study_in(path).trials] == [0.9, 0.9, 0.9, 0.1]


def test_a_journal_whose_last_line_is_damaged_is_opened_and_goes_on(tmp_path, whole):
    path = tmp_path / "x.journal"
    path.write_bytes(whole + b"{garb\n")
    study = study_in(path)
    study.tell(study.ask(), 0.1)
    assert path.read_bytes().startswith(whole)
    assert [trial.value for trial in study_in(path).trials] == [0.9, 0.9, 0.9, 0.1]


def test_what_another_process_damages_meanwhile_is_an_error_too(tmp_path):
    path = journal(tmp_path / "x.journal")
    study = study_in(path)
    number = len(path.read_bytes().splitlines())
    with path.open("ab") as file:
        file.write(b"what is this\nand this\n")
    with pytest.raises(RunError, match=rf"x\.journal:{number + 1}: the line is damaged"):
        study.ask()


def test_a_process_that_waits_for_long_says_so_and_goes_on_when_the_other_is_gone(
    tmp_path, monkeypatch
):
    path = journal(tmp_path / "x.journal")
    holder = Started(APPENDS_FOR_EVER, path)
    wait_for(lambda: "it holds the lock" in holder.said()[0], holder)
    said = []

    class Screen:
        def write(self, text: str) -> None:
            said.append(text)
            holder.kill()

    monkeypatch.setattr("levit_ablate.searches.storage.PATIENCE", 0.01)
    monkeypatch.setattr("sys.stderr", Screen())
    try:
        study_in(path)
    finally:
        holder.kill()
    assert "".join(said) == f"{path}: another process writes it; waiting for it\n"
