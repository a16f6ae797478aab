"""The project's checks and tests: `nox` runs what CI runs, `nox -l` lists the rest."""

import os
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
TIMELESS = "--ExecutePreprocessor.record_timing=False"
TESTED = ("-c", "constraints.txt")
TOOLS = Path(".nox", "environment", "Scripts" if os.name == "nt" else "bin")


@nox.session(default=False)
def environment(session: nox.Session) -> None:
    """The one environment of all sessions (torch alone is 5 GB): the package as a user gets it."""
    session.install(*TESTED, "--no-compile", ".", *GROUPS)
    # bytecode, by all cores: pip would take one, for a minute; some files are not for this Python
    compile_all = ("python", "-m", "compileall", "-q", "-j", "0", session.virtualenv.location)
    session.run(*compile_all, silent=True, success_codes=[0, 1])


def run(session: nox.Session, tool: str, *arguments: str) -> None:
    """Run a tool of the environment, single-threaded: the tests have a process for each core."""
    session.run(str(TOOLS / tool), *arguments, env={"OMP_NUM_THREADS": "1"}, external=True)


@nox.session(venv_backend="none", requires=["environment"])
def check(session: nox.Session) -> None:
    """Lint, types and tests."""
    run(session, "ruff", "check")
    run(session, "ruff", "format", "--check")
    run(session, "mypy", "--python-executable", str(TOOLS / "python"))
    together = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    run(session, "pytest", *together, *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def combinations(session: nox.Session) -> None:
    """Every combination of the design choices builds and has a cost (takes long)."""
    run(session, "pytest", "-n", "2", "-m", "combinations", *session.posargs)


@nox.session(venv_backend="none", requires=["environment"])
def notebooks(session: nox.Session) -> None:
    """Execute the notebooks in place, so that what they show is what they do."""
    for notebook in sorted(Path("notebooks").glob("*.ipynb")):
        arguments = ("--execute", "--inplace", "--to=notebook", TIMELESS, str(notebook))
        run(session, "python", "-m", "nbconvert", *arguments)


@nox.session(venv_backend="none")
def clean(session: nox.Session) -> None:
    """Remove what builds and tests leave behind."""
    session.run("git", "clean", "-dXf", "-e", "!.nox", external=True)
