"""Find and read the files of ablations, studies, searches and models: YAML by name.

The user's own `./ablations` comes first, then those that ship with the package. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from levit_ablate.config import VARIANT_KEYS, Architecture, Design, Experiment, Match
from levit_ablate.errors import UserError, closest
from levit_ablate.schema import (
    Reader,
    check_keys,
    config_from,
    experiment_from,
    plain,
    read_yaml,
    yaml_of,
)

BASELINE = "baseline"
SUFFIXES = (".yaml", ".yml")


class Kind(NamedTuple):
    """A kind of file, and the folder below `ablations` where it is looked for."""

    name: str
    folder: str


ABLATIONS = Kind("ablation", "")
STUDIES = Kind("study", "studies")
SEARCHES = Kind("search", "searches")
MODELS = Kind("model", "models")


def folders(kind: Kind = ABLATIONS) -> list[Path]:
    """Return the folders where files of a kind are looked for, in this order."""
    package = Path(__file__).parent
    shipped = package / "shipped" / "ablations"  # in the wheel
    shipped = shipped if shipped.is_dir() else package.parent / "ablations"
    return [Path("ablations") / kind.folder, shipped / kind.folder]


def names(kind: Kind = ABLATIONS) -> dict[str, Path]:
    """Return the files of a kind by their names.

    Hidden files, such as a Mac's `._mine.yaml`, are none. Raises UserError where a folder has two
    files of one name, `mine.yaml` and `mine.yml`, or cannot be read.
    """
    found: dict[str, Path] = {}
    for folder in reversed(folders(kind)):
        by_name: dict[str, Path] = {}
        for path in _files(folder):
            if other := by_name.get(path.stem):
                raise UserError(f"{other} and {path} have one name; rename or remove one of them")
            by_name[path.stem] = path
        found |= by_name
    return dict(sorted(found.items()))


def path_of(name: str, kind: Kind = ABLATIONS) -> Path:
    """Return the file of this name, or that is this. Raises UserError, with the closest name."""
    if name.endswith(SUFFIXES):
        return Path(name)
    paths = names(kind)
    if name not in paths:
        raise UserError(
            f"{kind.name} {name!r}: not in ./{Path('ablations', kind.folder)}, nor shipped; "
            f"{closest(name, paths)}"
        )
    return paths[name]


def _files(folder: Path) -> list[Path]:
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
        return [path for path in files if not path.name.startswith(".") and not path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from error


def line(what: str) -> Reader:
    """A reader of one line of text, which is to say `what`."""

    def read(value: Any, key: str) -> str:
        if not isinstance(value, str) or len(value.strip().splitlines()) != 1:
            raise UserError(f"{key}: a line that says {what} is needed")
        return value.strip()

    return read


def part_of(config: type) -> Reader:
    """A reader of some fields of a dataclass, which are checked and stay a mapping."""

    def read(value: Any, key: str) -> Mapping[str, Any]:
        mapping = {} if value is None else value
        if not isinstance(mapping, Mapping):
            raise UserError(f"{key}: {mapping!r} is no mapping of keys to values")
        check_keys(mapping, config, "", f"{key}.")
        return mapping

    return read


def conditions(whose: str) -> Reader:
    """A reader of parts of an experiment without its seed, for `whose` seeds are its own."""

    def read(value: Any, key: str) -> Mapping[str, Any]:
        mapping: Mapping[str, Any] = part_of(Experiment)(value, key)
        if "seed" in mapping:
            raise UserError(f"{key}.seed: {whose} has seeds of its own; set seeds")
        return mapping

    return read


@dataclass(frozen=True, kw_only=True)
class PaperRow:
    """A row of the paper's Table 4: LeViT-128S, ImageNet-1k, 224 px, 100 epochs."""

    row: str
    """A1 to A7, or base."""
    params: float
    """Parameters, with one head."""
    flops: float
    """Multiply-adds for an image, with one head."""
    accuracy: float
    """Top-1 accuracy in percent."""
    difference: float = 0.0
    """Accuracy less the base model's, in points."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A named difference from the baseline, as its file says it."""

    summary: Annotated[str, line("what is removed")]
    """One line on what is removed."""
    paper: PaperRow | None = None
    """The published figures, where the paper has a row for it."""
    match: Match = "none"
    """Cost of the baseline that the geometry is rescaled to, unless --match says otherwise."""
    design: Annotated[Mapping[str, Any], part_of(Design)] = field(default_factory=dict)
    """The design choices that it changes, by their names in `Design`."""
    architecture: Annotated[Mapping[str, Any], part_of(Architecture)] | None = None
    """The geometry that it brings along, in place of the model's."""
    name: str
    """The file's name, without its suffix."""
    path: Path
    """The file."""

    def header(self) -> dict[str, Any]:
        """Return name, summary and figures: with an experiment, all that a record needs."""
        paper = {"paper": asdict(self.paper)} if self.paper else {}
        return {"name": self.name, "summary": self.summary, **paper}

    def changes(self) -> dict[str, Any]:
        """Return the parts of an experiment that it sets; a geometry with all its fields."""
        changes = {"design": dict(self.design), "match": self.match}
        if self.architecture:
            own = config_from(Architecture, self.architecture, str(self.path), "architecture")
            changes["architecture"] = plain(own)
        return changes


RECORDED = ("name", "summary", "paper", "geometry")
"""Keys of a recorded experiment beside those of the experiment."""


def from_recorded(content: Mapping[str, Any], path: Path) -> tuple[Ablation, dict[str, Any]]:
    """Return the ablation and the conditions of a recorded experiment, read from `path`.

    Its design and its geometry, which is matched already, are the ablation's own, so that the file
    which it came from is not needed. Raises UserError as `read_file`.
    """
    conditions = dict(content)
    header = {key: conditions.pop(key) for key in RECORDED if key in conditions}
    own = {key: conditions.pop(key) for key in ("architecture", *VARIANT_KEYS) if key in conditions}
    name, geometry = str(header.pop("name")), header.pop("geometry", None)
    if geometry is not None:
        config_from(Architecture, geometry, str(path), "geometry")  # checks it
        conditions["architecture"] = geometry
    return from_mapping({**header, **own}, name, path), conditions


def to_yaml(ablation: Ablation) -> str:
    """Return the file of an ablation; what is not set is left out."""
    fields = ("summary", "match", "design", "architecture")
    mapping = {name: _without_none(getattr(ablation, name)) for name in fields}
    return yaml_of({name: value for name, value in mapping.items() if value})


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def read(name: str) -> Ablation:
    """Return the ablation of this name, or in this file. Raises UserError, with the closest."""
    return read_file(path_of(name))


def read_all() -> tuple[list[Ablation], list[UserError]]:
    """Return every ablation that can be named, and the errors of the files that cannot be read.

    The baseline comes first, then the paper's rows in order, then the others.
    """
    found, bad = [], []
    for path in names().values():
        try:
            found.append(read_file(path))
        except UserError as error:
            bad.append(error)
    found.sort(key=lambda a: (a.name != BASELINE, a.paper.row if a.paper else "Z", a.name))
    return found, bad


def read_file(path: Path) -> Ablation:
    """Read one file and check every key and choice in it. Raises UserError with file and key."""
    return from_mapping(read_yaml(path), path.stem, path)


def from_mapping(content: Mapping[str, Any], name: str, path: Path, where: str = "") -> Ablation:
    """Return the ablation that a mapping describes, read from `path`.

    Raises UserError as `read_file`; it begins with `where`, in place of the file.
    """
    where = where or str(path)
    ablation = config_from(Ablation, {"summary": None, **content}, where, name=name, path=path)
    sections = {"design": ablation.design, "architecture": ablation.architecture or None}
    experiment_from(sections, where)  # the types, and the combinations
    return ablation
