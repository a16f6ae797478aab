"""Completion in a real bash: what Tab gives, as `levit-ablate completion bash` has it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import shtab

from levit_ablate import library
from levit_ablate.cli.completion import script
from levit_ablate.cli.main import COMMANDS, run_command
from levit_ablate.recipes import RECIPES

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
function_name=$(complete -p levit-ablate | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function_name"
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""Gives what bash would show when Tab is pressed after the words."""


@pytest.fixture(scope="module")
def completions(tmp_path_factory):
    """Asks bash, which finds no Python, what completes some words, the last of which is begun."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    path = tmp_path_factory.mktemp("completion") / "levit-ablate.bash"
    path.write_text(script("bash"), encoding="utf-8")
    tools = tmp_path_factory.mktemp("tools")
    for tool in ("sed", "ls"):
        (tools / tool).symlink_to(shutil.which(tool))

    def ask(*words: str) -> list[str]:
        command = [bash, "--norc", "-c", ASK, "bash", path, "levit-ablate", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, env={"PATH": str(tools)}
        )
        assert done.stderr == ""
        return done.stdout.split()

    return ask


CASES = [
    (["r"], ["run"]),
    (["s"], ["show", "sweep", "search"]),
    ([""], list(COMMANDS)),
    (["run", "no_p"], ["no_patch_conv", "no_pyramid"]),
    (["run", ""], list(library.names())),
    (["run", "--seed", "3", "no_py"], ["no_pyramid"]),
    (["run", "--recipe", "smoke", "no_py"], ["no_pyramid"]),
    (["run", "--no-baseline", "no_py"], ["no_pyramid"]),
    (["run", "no_pyramid", "--recipe", ""], list(RECIPES)),
    (["run", "--recipe.ep"], ["--recipe.epochs"]),
    (["run", "--data", "c"], ["cifar10", "cifar100"]),
    (["run", "--model", "levit_n"], ["levit_nano"]),
    (["run", "--design.stem", ""], ["convolution", "patch"]),
    (["run", "--hardware.compile", ""], ["true", "false"]),
    (["run", "--help", "te"], ["teacher", "teacher.recipe"]),
    (["run", "--help", "a"], ["architecture", "all"]),
    (["show", "no_z"], ["no_zero_init"]),
    (["sweep", ""], ["design_choices", "from_deit", "pairs", "paper"]),
    (["plan", "pap"], ["paper"]),
    (["table", "paper", "--format", "m"], ["markdown"]),
    (["search", ""], ["accuracy_and_flops", "equal_flops", "flags"]),
    (["search", "--launcher", ""], ["local", "ray"]),
    (["bench", ""], ["data", "distill", "sweep"]),
    (["bench", "data", "no_z"], ["no_zero_init"]),
    (["completion", "b"], ["bash"]),
    (["run", "--jobs"], []),
]


@pytest.mark.parametrize(("words", "expected"), CASES, ids=[" ".join(words) for words, _ in CASES])
def test_tab_completes(completions, words, expected):
    assert completions(*words) == expected


def test_tab_completes_the_files_of_the_folder_one_is_in(completions):
    for path in ("ablations/mine.yaml", "ablations/studies/mine.yml", "ablations/models/tiny.yaml"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).touch()
    assert completions("run", "mi") == completions("sweep", "mi") == ["mine"]
    assert completions("run", "mine", "--model", "ti") == ["tiny"]
    assert completions("run", "--config", "abl") == ["ablations"]


def test_a_file_name_is_never_executed(completions):
    Path("ablations").mkdir()
    for name in ("$(touch seen)", "`touch seen`", "a;touch seen", "fine"):
        Path("ablations", f"{name}.yaml").touch()
    assert "touch" not in script("bash") + script("zsh") + script("fish")
    assert completions("run", "f") == ["fine"] and len(completions("run", "")) > 10
    assert not Path("seen").exists()


@pytest.mark.parametrize("shell", shtab.SUPPORTED_SHELLS)
def test_every_shell_of_shtab_has_a_script_with_the_names(shell, capsys):
    assert run_command(["completion", shell]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for word in ("no_pyramid", "equal_flops", "levit_nano", "fashion_mnist", "paper_1000"):
        assert word in out
