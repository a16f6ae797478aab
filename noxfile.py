"""The project's checks and tests: `nox` runs what CI runs, `nox -l` lists the rest."""

from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["check"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
GROUPS = [
    requirement
    for group in ("lint", "test", "notebooks")
    for requirement in PYPROJECT["dependency-groups"][group]
]
SHARED = ".nox/shared"
"""One environment for all sessions: torch alone is 5 GB."""
TIMELESS = "--ExecutePreprocessor.record_timing=False"
TESTED = ("-c", "constraints.txt")


def install(session: nox.Session) -> None:
    """The package as a user gets it, not editable, and the tools; versions as last tested."""
    session.install(*TESTED, ".", *GROUPS)


@nox.session(venv_location=SHARED)
def check(session: nox.Session) -> None:
    """Lint, types and tests."""
    install(session)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")
    # a process for each core, of one thread each
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("pytest", "-n", "2", "--dist", "loadfile", *session.posargs)


@nox.session(venv_location=SHARED)
def combinations(session: nox.Session) -> None:
    """Every combination of the design choices builds and has a cost (minutes)."""
    install(session)
    session.env["OMP_NUM_THREADS"] = "1"
    session.run("pytest", "-n", "2", "-m", "combinations", *session.posargs)


@nox.session(venv_location=SHARED)
def notebooks(session: nox.Session) -> None:
    """Execute the notebooks in place, so that what they show is what they do."""
    install(session)
    for notebook in sorted(Path("notebooks").glob("*.ipynb")):
        session.run(
            "jupyter", "nbconvert", "--execute", "--inplace", "--to=notebook", TIMELESS, notebook
        )


@nox.session(venv_backend="none")
def clean(session: nox.Session) -> None:
    """Remove what builds and tests leave behind."""
    session.run("git", "clean", "-dXf", "-e", "!.nox", external=True)
