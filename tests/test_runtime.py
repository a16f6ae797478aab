"""What the machine cannot do is said before anything is begun."""

from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from levit_ablate.config import Experiment, Hardware
from levit_ablate.errors import UserError
from levit_ablate.runtime import (
    RANK_VARIABLES,
    check_hardware,
    is_first_process,
    replacing,
    settle_rank,
)


@pytest.mark.parametrize("work_dir", ["file.txt", "file.txt/inside", "/proc/nowhere"])
def test_a_work_folder_that_cannot_be_written_is_refused_in_a_line(work_dir):
    Path("file.txt").write_text("no folder", encoding="utf-8")
    with pytest.raises(UserError, match=rf"hardware\.work_dir: {work_dir} cannot be written: "):
        check_hardware(Experiment(hardware=Hardware(work_dir=work_dir)))


def test_a_work_folder_is_made():
    check_hardware(Experiment(hardware=Hardware(work_dir="new/folder")))
    assert list(Path("new/folder").iterdir()) == []


def test_several_hosts_need_to_know_their_places(monkeypatch):
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    hosts = Experiment(hardware=Hardware(num_nodes=2))
    with pytest.raises(UserError, match=r"hardware\.num_nodes: 2: .* srun or torchrun"):
        check_hardware(hosts)
    monkeypatch.setenv("NODE_RANK", "1")
    check_hardware(hosts)


@pytest.mark.parametrize(
    ("hardware", "rank", "node_rank", "is_first"),
    [
        (Hardware(), 1, "1", True),  # a task of srun with a training of its own
        (Hardware(), 0, "", True),
        (Hardware(devices=2), 1, "", True),  # a stray RANK, and Lightning starts the processes
        (Hardware(devices=2), 0, "", True),
        (Hardware(num_nodes=2), 0, "1", False),  # started by hand on the second host
        (Hardware(num_nodes=2), 0, "0", True),
    ],
)
def test_a_training_on_one_device_is_its_own_first_process(
    monkeypatch, hardware, rank, node_rank, is_first
):
    monkeypatch.setattr(rank_zero_only, "rank", rank)
    monkeypatch.setenv("NODE_RANK", node_rank)
    settle_rank(hardware)
    assert is_first_process() == is_first


def test_a_file_that_is_not_written_whole_leaves_the_one_before(tmp_path):
    file = tmp_path / "file"
    with replacing(file) as new:
        new.write_text("whole")

    def fill_the_disk() -> None:
        with replacing(file) as new:
            new.write_text("ha")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fill_the_disk()
    assert file.read_text() == "whole" and list(tmp_path.iterdir()) == [file]
