"""What a folder is taken for, by its first image and the names of its classes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from folders import draw, fill
from PIL import Image

from levit_ablate.config import Data
from levit_ablate.data import datasets
from levit_ablate.experiment import identified


@pytest.mark.parametrize(
    ("name", "weights"), [("n{:08}", "pretrained"), ("class{:04}", None), ("n{:07}", None)]
)
def test_only_a_folder_with_imagenets_classes_gets_its_teacher(tmp_path, name, weights):
    draw(tmp_path / "image.jpg", 100, 80)
    for number in range(1000):
        folder = tmp_path / "set" / "train" / name.format(number)
        folder.mkdir(parents=True)
        os.link(tmp_path / "image.jpg", folder / "0.jpg")
    defaults = datasets.dataset_of(Data(name="folder", root=str(tmp_path / "set"))).defaults
    assert defaults["teacher"].get("weights") == weights


def test_a_first_image_that_cannot_be_opened_is_passed_over(tmp_path, monkeypatch):
    root = fill(tmp_path / "set")
    draw(root / "train" / "cat" / "0.jpg", 300, 300)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # twice as much is a bomb
    assert datasets.first_image_side(root) == 9


def test_files_that_are_not_used_are_said_in_a_line(capsys):
    root = fill(Path("set"))
    draw(root / "train" / "cat" / "below" / "0.jpg")
    identified({"data": {"name": "folder", "root": str(root)}})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("data.root: ") and line.endswith(": 1 in folders below")


def test_what_is_left_out_is_said_in_a_line(capsys):
    root = fill(Path("set"))
    (root / "train" / "cat" / "bad.jpg").write_bytes(b"no image")
    given = {"data": {"name": "folder", "root": str(root), "on_error": "skip"}}
    assert identified(given)["data"]["fingerprint"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("data.root: 1 images of ")
    assert "train/cat/bad.jpg: not an image; all are listed in" in line
    assert "bad.jpg" in Path(line.split()[-1]).read_text()
