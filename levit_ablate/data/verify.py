"""Whether an image folder is as it has to be: its layout, and that every image can be decoded."""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
import os
import stat
import subprocess
import sys
import warnings
from array import array
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from levit_ablate.errors import RunError, UserError

PARTS = ("train", "val", "test")
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""torchvision's."""
CHUNK = 64
"""Images that a process is given at once. So few are checked without a process."""
NAMED = 5
"""Of many bad things, those that an error names."""


class Listing:
    """The images of a part, ordered by class and name: the path of each and 12 bytes."""

    def __init__(self) -> None:
        self.paths = bytearray()
        """All paths from the root, one after another."""
        self.offsets = array("q", [0])
        """Where each path begins, and the last one ends."""
        self.labels = array("i")

    def add(self, path: bytes, label: int) -> None:
        """One more image."""
        self.paths += path
        self.offsets.append(len(self.paths))
        self.labels.append(label)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[bytes]:
        """The paths, in turn."""
        for index in range(len(self)):
            yield bytes(self.paths[self.offsets[index] : self.offsets[index + 1]])


@contextlib.contextmanager
def reading_folders() -> Iterator[None]:
    """A folder of images that cannot be listed is a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f"data.root: {error.filename} cannot be read: {error.strerror}") from error


def folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))


def folder_state(root: Path) -> list[list[Any]]:
    """What changes when an image is added, removed or renamed: its folders and their times.

    Raises UserError where one cannot be read.
    """

    def times(folder: Path, names: Iterable[str]) -> list[list[Any]]:
        return [[name, (folder / name).stat().st_mtime_ns] for name in names]

    with reading_folders():
        parts = [part.name for part in _parts(root)]
        return [times(root, parts), *(times(root / part, folders(root / part)) for part in parts)]


def _parts(root: Path) -> list[Path]:
    return [part for name in PARTS if (part := root / name).is_dir()]


def list_parts(root: Path, classes: tuple[str, ...]) -> dict[str, Listing]:
    """The images of every part.

    Raises UserError where there is neither val nor test, where a part has other classes than train,
    where a class has no image, and where a folder cannot be read.
    """
    with reading_folders():
        parts = _parts(root)
        if len(parts) < 2:
            raise UserError(
                f"data.root: {root} has neither val nor test beside train; one of them is needed, "
                f"with the same classes"
            )
        return {part.name: _list_part(root, part.name, classes) for part in parts}


def _list_part(root: Path, part: str, classes: tuple[str, ...]) -> Listing:
    own = folders(root / part)
    for names, said in (
        (set(own) - set(classes), "has classes that train has not"),
        (set(classes) - set(own), "has not all classes of train, it lacks"),
    ):
        if names:
            raise UserError(f"data.root: {root / part} {said}: {some(sorted(names))}")
    listing, empty = Listing(), []
    for label, name in enumerate(classes):
        with os.scandir(root / part / name) as entries:
            paths = sorted(
                os.fsencode(f"{part}/{name}/{entry.name}")
                for entry in entries
                if entry.name.lower().endswith(IMAGE_SUFFIXES)
                and not entry.name.startswith(".")
                and not entry.is_dir(follow_symlinks=False)
            )
        for path in paths:
            listing.add(path, label)
        if not paths:
            empty.append(name)
    if empty:
        raise UserError(
            f"data.root: {root / part} has class folders without images: {some(empty)}; "
            f"fill or remove them"
        )
    return listing


def some(names: Iterable[str], separator: str = ", ") -> str:
    """The first few of many, and how many more there are."""
    every = [shown(name) for name in names]
    more = f" and {len(every) - NAMED} more" if every[NAMED:] else ""
    return separator.join(every[:NAMED]) + more


def shown(name: str) -> str:
    """A name as it can be printed, in a line: whatever else is in it is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


class Checked(NamedTuple):
    """What an image came to."""

    side: int
    """The larger of height and width, in pixels."""
    digest: bytes
    """Of the file's content, 16 bytes; none where it could not be read at all."""
    error: str
    """Why it cannot be used, in a line; empty where it can."""


def check_image(path: Path) -> Checked:
    """Read an image and decode it to RGB, as training will. Raises nothing that an image causes.

    A JPEG is decoded at an eighth of its size, which reads all of it: what stops the whole
    decoder, a file cut short for one, stops this one too.
    """
    content, digest = b"", b""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return Checked(0, b"", "not a file")
        content = path.read_bytes()
        digest = hashlib.blake2b(content, digest_size=16).digest()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # opening a large image warns already
            with Image.open(io.BytesIO(content)) as image:
                side = max(image.size)
                image.draft("RGB", (1, 1))
                image.convert("RGB")
    except UnidentifiedImageError:
        return Checked(0, digest, "not an image" if content else "empty file")
    except MemoryError:  # no fault of the file: without a digest it is tried again
        return Checked(0, b"", "not enough memory")
    except Exception as error:  # decoders of broken files raise whatever comes up
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Checked(0, digest, shown(said))
    return Checked(side, digest, "")


def check_images(
    root: Path, paths: Iterator[bytes], count: int, num_workers: int | None = None
) -> Generator[Checked, None, None]:
    """Check `count` images, their paths from `root`; the results in their order, as they come.

    One process for each core unless told otherwise. Raises RunError where one of them dies or none
    can be started. Ctrl-C, or closing the iterator, ends them at once.
    """
    if count <= CHUNK:
        yield from (check_image(root / os.fsdecode(path)) for path in paths)
        return
    num_workers = min(num_workers or _num_cores(), math.ceil(count / CHUNK))
    with contextlib.ExitStack() as stack:
        try:
            processes = [stack.enter_context(_Process(root)) for _ in range(num_workers)]
        except OSError as error:
            raise RunError(f"no process can be started to check images: {error}") from error
        threads = stack.enter_context(ThreadPoolExecutor(num_workers))
        for process in processes:
            stack.callback(process.kill)  # the threads would wait for them
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        idle: SimpleQueue[_Process] = SimpleQueue()
        for process in processes:
            idle.put(process)

        def check(chunk: list[bytes]) -> list[Checked]:
            process = idle.get()
            try:
                return process.check(chunk)
            finally:
                idle.put(process)

        begun: deque[Future[list[Checked]]] = deque()
        while chunk := list(islice(paths, CHUNK)):
            begun.append(threads.submit(check, chunk))
            if len(begun) > 2 * num_workers:
                yield from begun.popleft().result()
        while begun:
            yield from begun.popleft().result()


class _Process:
    """A Python process that checks images; it ends when this one does, however that ends.

    Not multiprocessing's: forked beside torch's threads it may lock up, spawned it runs the user's
    script again; `Pool` waits for ever for a process that was killed, and those of
    `ProcessPoolExecutor` outlive a parent that was.
    """

    def __init__(self, root: Path) -> None:
        code = "import sys; from levit_ablate.data.verify import _serve; _serve(*sys.argv[1:])"
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", code, str(theirs.fileno()), root],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is this process's matter
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(p or str(Path.cwd()) for p in sys.path),
                },
            )

    def check(self, paths: list[bytes]) -> list[Checked]:
        """Check some images. Raises RunError where the process has died."""
        try:
            self.connection.send(paths)
            return self.connection.recv()
        except (EOFError, OSError) as error:
            first, last = (shown(os.fsdecode(path)) for path in (paths[0], paths[-1]))
            raise RunError(
                f"a process that checked the images from {first} to {last} died (exit code "
                f"{self.process.wait()}); one of them may be to blame, or a want of memory"
            ) from error

    def kill(self) -> None:
        """End it now."""
        self.process.kill()

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.wait()
        self.connection.close()


def _serve(descriptor: str, root: str) -> None:
    """The life of such a process: check what comes, until its parent is gone."""
    folder = Path(root)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())  # libtiff prints what is reported anyway
    with Connection(int(descriptor)) as connection, contextlib.suppress(EOFError, OSError):
        while True:
            paths: list[bytes] = connection.recv()
            connection.send([check_image(folder / os.fsdecode(path)) for path in paths])


def _num_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
