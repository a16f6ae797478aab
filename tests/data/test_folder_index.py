"""An image folder is served as it lies, or refused in a line."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import unicodedata
from pathlib import Path

import numpy
import pytest
from folders import draw, fill
from PIL import Image

from levit_ablate.data.folder_index import open_index
from levit_ablate.data.folder_layout import class_names
from levit_ablate.errors import UserError

BROKEN = b"no image"


@pytest.fixture
def root(tmp_path) -> Path:
    return fill(tmp_path / "images")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def no_checks(*_) -> None:
    raise AssertionError("images are checked again")


def test_images_are_served_by_class_and_name(tmp_path, cache):
    root = tmp_path / "images"
    names = [
        "b.jpg",
        "a.JPEG",
        "c.PNG",
        "ü und ß.webp",
        os.fsdecode(b"latin\xe9.jpg"),
        "line\nbreak.tif",
    ]
    for part in ("val", "train"):
        for name in ("zebra", "Ara", "Kä fer"):
            for image in names:
                draw(root / part / name / image)
            draw(root / part / name / ".hidden.jpg")
            draw(root / part / name / "folder.jpg" / "within.jpg")
            (root / part / name / "notes.txt").write_text("no image")
    draw(root / "train" / ".ipynb_checkpoints" / "a.jpg")
    draw(root / "train" / "Ara" / "wide.jpg", width=71, height=10)
    (root / "train" / "zebra" / "linked.jpg").symlink_to(root / "train" / "Ara" / "b.jpg")
    draw(tmp_path / "elsewhere" / "one.jpg")
    for part in ("train", "val"):
        (root / part / "linked").symlink_to(tmp_path / "elsewhere")

    index = open_index(root, cache)
    assert class_names(root) == ("Ara", "Kä fer", "linked", "zebra")
    assert list(index.parts) == ["train", "val"]
    train = index.parts["train"]
    ordered = sorted(names, key=os.fsencode)
    expected = {
        "Ara": sorted([*names, "wide.jpg"], key=os.fsencode),
        "Kä fer": ordered,
        "linked": ["one.jpg"],
        "zebra": sorted([*names, "linked.jpg"], key=os.fsencode),
    }
    paths = [root / "train" / name / image for name, images in expected.items() for image in images]
    assert list(train.files) == paths
    assert train.files[-1] == paths[-1]
    with pytest.raises(IndexError):
        train.files[len(train)]
    assert train.labels.tolist() == [0] * 7 + [1] * 6 + [2] + [3] * 7
    assert train.labels.dtype == numpy.int32 and isinstance(train.labels, numpy.memmap)
    assert index.max_side == 71
    assert not index.skipped


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, r"there is no folder .*images; .*train/CLASS/IMAGE"),
        (lambda root: (shutil.rmtree(root), root.write_text("")), "there is no folder"),
        (lambda root: shutil.rmtree(root / "train"), "no folder train; train/CLASS/IMAGE"),
        (lambda root: shutil.rmtree(root / "test"), "neither val nor test"),
        (lambda root: shutil.rmtree(root / "train" / "cat"), "only one class, dog; at least two"),
        (
            lambda root: empty(root / "train" / "cat"),
            r"train has class folders without images: cat;",
        ),
        (
            lambda root: [(root / "test" / f"{n}").mkdir() for n in range(8)],
            "test has classes that train has not: 0, 1, 2, 3, 4 and 3 more",
        ),
        (
            lambda root: shutil.rmtree(root / "test" / "dog"),
            "not all classes of train, it lacks: dog",
        ),
    ],
)
def test_a_wrong_layout_is_an_error_in_a_line(spoil, said, root, cache):
    spoil(root)
    with pytest.raises(UserError, match=said) as caught:
        open_index(root, cache)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_validation_images_are_found_by_each_of_their_names(name, root, cache):
    fill(root, parts=[name], count=2)
    index = open_index(root, cache)
    assert list(index.parts) == ["train", name, "test"]
    assert index.evaluation_parts == [name, "test"]
    assert [len(part) for part in index.parts.values()] == [6, 4, 6]
    shutil.rmtree(root / "test")
    assert open_index(root, cache).evaluation_parts == [name]


def test_two_folders_of_validation_images_are_refused(root, cache):
    open_index(root, cache)
    fill(root, parts=["val", "valid"])
    with pytest.raises(UserError, match="has val and valid, which all are names of the validation"):
        open_index(root, cache)


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Ménagère") for form in ("NFC", "NFD"))


def test_class_names_are_compared_in_unicodes_normal_form(root, cache):
    fill(root, parts=["train"], classes=[COMPOSED])
    fill(root, parts=["test"], classes=[DECOMPOSED])
    index = open_index(root, cache)
    assert class_names(root) == (COMPOSED, "cat", "dog")
    test = index.parts["test"]
    assert test.files[0] == root / "test" / DECOMPOSED / "test0.jpg" and test.labels[0] == 0
    fill(root, parts=["train"], classes=[DECOMPOSED])
    with pytest.raises(UserError, match="train has two class folders that look the same, Ménagère"):
        class_names(root)


def test_what_is_left_out_is_counted(root, cache):
    assert not open_index(root, cache).left_out
    folder = root / "train" / "cat"
    for name in ("a.heic", "b.HEIC", "notes.txt", "README", ".DS_Store"):
        (folder / name).write_bytes(b"")
    for name in ("._train1.jpg", ".hidden.png", ".thumbs/1.jpg", "more/1.jpg", "more/yet/2.jpg"):
        draw(folder / name)
    draw(root / "test" / "loose.jpg")
    draw(root / "train" / "dog" / "taken.jfif")
    Image.open(folder / "train1.jpg").save(root / "train" / "dog" / "taken.gif")
    fill(root, parts=["holdout"], classes=["dog", "eel"])
    fill(root, parts=["annotations", ".git"], classes=["xml"])
    index = open_index(root, cache)
    assert len(index.parts["train"]) == 8 and len(index.parts["test"]) == 6
    unused, files = index.left_out
    assert unused.startswith(f"data.root: {root}: holdout: with classes of train, but not used")
    assert "10 files left out" in files
    assert files.endswith(
        ": 2 .heic, 1 .txt, 3 hidden, 2 in folders below, 1 outside of class folders, "
        "1 without a suffix"
    )
    assert open_index(root, cache).left_out == (unused, files)
    empty(root / "train" / "dog")
    with pytest.raises(UserError, match=r"without images: dog; they lie directly in it, .*\.jpg"):
        open_index(root, cache)


def test_unreadable_images_stop_or_are_left_out_without_being_checked_again(
    root, cache, monkeypatch
):
    sound = open_index(root, cache).fingerprint
    for number in range(6):
        (root / "train" / "dog" / f"bro\nken{number}.jpg").write_bytes(BROKEN)
    (root / "test" / "cat" / "dangling.png").symlink_to(root / "nowhere")
    with pytest.raises(UserError) as caught:
        open_index(root, cache)
    said = str(caught.value)
    assert "7 of 19 images" in said and r"train/dog/bro\nken4.jpg: not an image and 2 more" in said
    assert "ken5" not in said and "--data.on_error skip" in said and "\n" not in said
    [listed] = cache.rglob("unreadable.txt")
    assert str(listed) in said and len(listed.read_text().splitlines()) == 7

    monkeypatch.setattr("levit_ablate.data.loader.over_files", no_checks)
    skipping = open_index(root, cache, on_error="skip")
    assert len(skipping.skipped) == 7
    assert skipping.skipped[-1] == "test/cat/dangling.png: No such file or directory"
    assert [len(part) for part in skipping.parts.values()] == [6, 6]
    assert skipping.fingerprint == sound  # of the images that remain
    with pytest.raises(UserError, match="7 of 19"):
        open_index(root, cache)


def test_an_image_that_was_mended_where_it_lies_is_noticed(root, cache):
    path = root / "test" / "dog" / "test0.jpg"
    whole = path.read_bytes()
    path.write_bytes(BROKEN)
    with pytest.raises(UserError, match=r"test/dog/test0\.jpg: not an image"):
        open_index(root, cache)
    path.write_bytes(whole)
    assert not open_index(root, cache).skipped


def test_an_image_that_a_failing_disk_hid_is_noticed(root, cache, monkeypatch):
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "test0.jpg":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    with pytest.raises(UserError, match=r"2 of 12 .*: Input/output error"):
        open_index(root, cache)
    monkeypatch.undo()
    assert not open_index(root, cache).skipped


@pytest.mark.parametrize("classes", [["cat"], ["cat", "dog"]])
def test_a_class_that_skipping_empties_is_an_error(classes, root, cache):
    for name in classes:
        for path in (root / "test" / name).iterdir():
            path.write_bytes(BROKEN)
    said = ", ".join(f"test/{name}" for name in classes)
    with pytest.raises(UserError, match=f"no image in {said} of .* can be read") as caught:
        open_index(root, cache, on_error="skip")
    assert "\n" not in str(caught.value)


def test_the_fingerprint_is_of_names_and_contents_alone(tmp_path, cache):
    root = fill(tmp_path / "images", count=40)  # so many that processes are used
    first = open_index(root, cache, num_workers=1).fingerprint
    assert len(first) == 16 and int(first, 16)
    copied = shutil.copytree(root, tmp_path / "another place", copy_function=shutil.copyfile)
    assert open_index(copied, cache, num_workers=3).fingerprint == first
    image = copied / "train" / "cat" / "train7.jpg"
    moved = image.rename(image.with_name("train7b.jpg"))  # in the same order
    renamed = open_index(copied, cache).fingerprint
    draw(moved)
    moved = moved.rename(image)
    changed = open_index(copied, cache).fingerprint
    assert len({first, renamed, changed}) == 3


@pytest.fixture
def unprivileged():
    """A folder that everyone may write to, and this process with the rights of an ordinary user."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o777)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)


def test_what_may_not_be_read_or_written_is_an_error_in_a_line(unprivileged):
    root = fill(unprivileged / "images")
    sealed = unprivileged / "sealed"
    sealed.mkdir(mode=0o500)
    image, folder = root / "train" / "cat" / "train1.jpg", root / "test" / "dog"

    def said(cache: Path) -> str:
        with pytest.raises(UserError) as caught:
            open_index(root, cache)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert f"cannot be kept in {sealed}: Permission denied" in said(sealed)
    assert "Permission denied" in said(sealed / "within")
    assert "Not a directory" in said(image / "within")
    image.chmod(0)
    assert "1 of 12 images" in said(unprivileged / "cache")
    assert "train/cat/train1.jpg: Permission denied" in said(unprivileged / "cache")
    image.chmod(0o600)
    assert len(open_index(root, unprivileged / "cache").parts["train"]) == 6
    below = root / "train" / "cat" / "@eaDir"
    below.mkdir(mode=0)  # not used, and so not complained of
    assert len(open_index(root, unprivileged / "cache").parts["train"]) == 6
    folder.chmod(0)
    assert "dog cannot be read: Permission denied" in said(unprivileged / "another")
    folder.chmod(0o700)
    root.chmod(0)
    assert "cannot be read: Permission denied" in said(unprivileged / "cache")
    root.chmod(0o700)
