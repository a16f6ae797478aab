"""A user's mistake is one line that says what is wrong and what is valid, and exit code 2."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from levit_ablate.cli.main import with_dashes

NANO = ("show", "baseline", "--model", "levit_nano")


SECTIONS = ("architecture", "data", "design", "hardware", "recipe", "teacher", "teacher.recipe")
LONG = "".join(f"setting_{number}: {number}, " for number in range(300))


@pytest.mark.parametrize("section", SECTIONS)
@pytest.mark.parametrize("value", ["x" * 300, f"{{{LONG}}}", "a/" * 3000, "\udcff", "", "some"])
def test_a_section_that_is_no_file_is_one_short_line_however_long_it_is(complaint, section, value):
    Path("some").mkdir()
    said = complaint(*NANO, f"--{section}", value)
    assert said.startswith(f"--{section}: ") and "YAML file" in said and len(said) < 250


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_in_a_file_that_cannot_be_read_names_it(complaint, section):
    Path("folder.yaml").mkdir()
    for name, why in (("folder.yaml", "Is a directory"), (f"{'x' * 300}.yaml", "name too long")):
        assert f"cannot be read: {'File ' * ('name' in why)}{why}" in complaint(
            *NANO, f"--{section}", name
        )


@pytest.mark.parametrize("option", ["", "--config"])
def test_a_file_with_a_name_too_long_is_one_line(complaint, option):
    words = [option, f"{'x' * 300}.yaml"] if option else [f"{'x' * 300}.yaml"]
    assert "cannot be read: File name too long" in complaint("show", *words)


MISTAKES = {
    "unknown option": (
        ["--design.steam", "patch"],
        r"unknown option --design\.steam; did you mean --design\.stem\?",
    ),
    "unknown section": (
        ["--desing.stem=patch"],
        r"unknown option --desing\.stem; did you mean --design\.stem\?",
    ),
    "an option cut short": (["--see", "5"], r"unknown option --see; did you mean --seed\?"),
    "an option like no other": (["--xyzzyq", "5"], "unknown option --xyzzyq; see .*--help"),
    "a word too many": (["no_pyramid"], "unrecognized arguments: no_pyramid; see .*--help"),
    "wrong choice": (
        ["--design.stem", "pach"],
        r"design\.stem: 'pach' is not a choice; did you mean patch\? valid: convolution, patch",
    ),
    "a choice cut short": (
        ["--recipe.precision", "bf16"],
        r"recipe\.precision: 'bf16' is not a choice; did you mean bf16-mixed\? valid: 16-mixed, 32-true, auto, bf16-mixed",
    ),
    "text for a number or null": (
        ["--data.seed", "x"],
        r"data\.seed: int needed, not 'x'$",
    ),
    "empty choice": (["--design.stem="], r"design\.stem: '' is not a choice; valid: convolution,"),
    "wrong format": (["--format", "xml"], "format: 'xml' is not a choice; .*valid: json, text"),
    "wrong match": (["--match", "flop"], r"match: 'flop' is not a choice; did you mean flops\?"),
    "text for a whole number": (
        ["--recipe.epochs", "many"],
        r"recipe\.epochs: int needed, not 'many'",
    ),
    "nothing for a whole number": (["--recipe.epochs="], r"recipe\.epochs: int needed, not ''$"),
    "a list for a whole number": (["--recipe.epochs", "[1]"], r"recipe\.epochs: int .* not \[1\]$"),
    "a fraction for a whole number": (["--recipe.epochs", "1.5"], r"recipe\.epochs: int needed"),
    "text for a number": (
        ["--recipe.learning_rate", "fast"],
        r"recipe\.learning_rate: float needed, not 'fast'",
    ),
    "text for a truth value": (
        ["--design.pyramid", "maybe"],
        r"design\.pyramid: bool needed, not 'maybe'; write true or false$",
    ),
    "no number": (["--recipe.learning_rate", "nan"], r"recipe\.learning_rate: .*nan"),
    "out of range": (["--recipe.epochs", "0"], r".*recipe\.epochs: 0 must be at least 1"),
    "a number beyond all sense": (
        ["--design.mlp_expansion", "1e300"],
        r".*mlp_expansion: 1e\+300 ",
    ),
    "a seed out of range": (
        ["--seed", "4294967296"],
        r".*seed: 4294967296 .* at most 4,?294,?967,?295",
    ),
    "without meaning": (
        ["--design.pyramid", "false", "--design.downsampling", "convolution"],
        r".*design\.pyramid: false cannot be combined with design\.downsampling: convolution, ",
    ),
    "missing value": (["--design.stem"], r"argument --design\.stem: expected one argument"),
    "missing seed": (["--seed"], "argument --seed: expected one argument"),
    "missing config": (["--config"], "argument --config: expected one argument"),
    "unknown recipe": (
        ["--recipe", "smok"],
        r"--recipe: 'smok' is .*; did you mean smoke\? valid: cifar, paper, paper_1000, quick, smoke",
    ),
    "missing recipe": (
        ["--recipe"],
        "--recipe: '' is .*; valid: cifar, paper, paper_1000, quick, smoke",
    ),
    "unknown data": (
        ["--data", "digit"],
        r"--data: 'digit' is .*; did you mean digits\? valid: cifar10, ",
    ),
    "unknown name of data": (
        ["--data.name", "digit"],
        r"data\.name: 'digit' is not a choice; did you mean digits\?",
    ),
    "unknown model": (
        ["--model", "levit_128x"],
        r"model: no preset is called 'levit_128x'; did you mean levit_128\? "
        "valid: levit_128, levit_128s, levit_192, levit_256, levit_384, levit_micro, levit_nano",
    ),
    "a geometry that is no file": (["--architecture", "small"], "--architecture: 'small' is no"),
    "a geometry that is not whole": (
        ["--architecture.value_dim", "16"],
        ".*architecture: needs stages",
    ),
    "a design that is no file": (["--design", "patch"], "--design: 'patch' is no"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_is_wrong_and_what_is_valid(complaint, mistake):
    options, message = MISTAKES[mistake]
    assert re.match(message, complaint(*NANO, *options))


FILES = {
    "unknown key": (
        "recipe: {epoch: 5}",
        r"unknown key recipe\.epoch; did you mean epochs\? valid: batch_size, clip, ",
    ),
    "unknown section": (
        "recip: {epochs: 5}",
        r"unknown key recip; did you mean recipe\? valid: architecture, data, design, ",
    ),
    "wrong choice": ("design: {stem: pach}", r"design\.stem: 'pach' .*did you mean patch\?"),
    "wrong type": ("recipe: {epochs: many}", r"recipe\.epochs: int needed, not 'many'"),
    "nothing": ("recipe:", "recipe: None is no mapping; keys: epochs, "),
    "no name": (
        "recipe: fast",
        "recipe: 'fast' is no name; valid: cifar, paper, paper_1000, quick, smoke",
    ),
    "a list": ("- recipe", "holds list, where keys and values are needed"),
    "empty": ("", "is empty, where keys and values are needed"),
}


@pytest.mark.parametrize("problem", FILES)
def test_a_bad_config_file_is_named_with_the_key(complaint, problem, write):
    content, message = FILES[problem]
    path = write("mine.yaml", content)
    assert re.match(f"mine.yaml: {message}", complaint(*NANO, "--config", path))


def test_a_bad_config_is_found_behind_a_good_one(complaint, write):
    good, bad = write("good.yaml", "seed: 1"), write("bad.yaml", "sed: 1")
    message = complaint(*NANO, "--config", good, "--config", bad)
    assert message.startswith("bad.yaml: unknown key sed; did you mean seed?")


def test_what_is_not_yaml_is_named_with_the_line(complaint, write):
    path = write("mine.yaml", "seed: 1\nrecipe: {epochs: 3\n")
    assert re.match(r"mine\.yaml:\d: not YAML: ", complaint(*NANO, "--config", path))


def test_a_config_that_is_not_there_is_named(complaint):
    assert complaint(*NANO, "--config", "nowhere.yaml").startswith(
        "nowhere.yaml: cannot be read: No such file or directory"
    )
    assert complaint(*NANO, "--config", ".").startswith(".: cannot be read: Is a directory")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 5", r"unknown key recipe\.epoch; did you mean epochs\? valid: "),
        ("epochs: many", r"recipe\.epochs: int needed, not 'many'"),
        ("- 5", "holds list, where keys and values are needed"),
    ],
)
def test_a_bad_recipe_file_is_named_with_the_key(complaint, content, message, write):
    path = write("mine.yaml", content)
    assert re.match(f"mine.yaml: {message}", complaint(*NANO, "--recipe", path))


def test_a_recipe_file_that_is_not_there_is_named(complaint):
    assert "nowhere.yaml" in complaint(*NANO, "--recipe", "nowhere.yaml")


def test_the_name_of_an_ablation_is_needed(complaint):
    assert re.match("the name of an ablation is missing; levit-ablate list", complaint("show"))


def test_an_unknown_ablation_is_refused_with_the_closest_and_all_valid(complaint):
    message = complaint("show", "no_piramid")
    assert "'no_piramid'" in message
    assert "did you mean no_pyramid? valid: baseline, class_token, " in message


def test_an_ablation_file_that_is_not_there_is_named(complaint):
    assert complaint("show", "nowhere.yaml").startswith("nowhere.yaml: cannot be read: No such")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["lst"],
            r"command 'lst' is not known; did you mean list\? valid: bench, completion, list, plan, run, search, show, sweep, table, teacher, ui",
        ),
        (["--verison"], r"command '--verison' is not known; .*did you mean --version\?"),
        (["--recipe.epochs", "3", "run"], "command .* options follow the command"),
        (["no_pyramid"], r"command .* did you mean levit-ablate run no_pyramid\?"),
        (["help", "rum"], r"command 'rum' is not known; did you mean run\?"),
        (["run", "--recip.epochs", "3"], r"unknown option --recip.*mean --recipe\.epochs\?"),
        (["run", "-seed", "3"], r"unknown option -seed; did you mean --seed\?"),
        (["run", "no_pyramid", "no_zero_init"], "unrecognized arguments: no_zero_init"),
        (["run", "--help", "desing"], r"--help: 'desing' is no section; did you mean design\?"),
        (["list", "--help", "design"], "--help: 'design' is no section; valid: all"),
        (["bench", "spped"], "bench: 'spped' is not a choice; valid: data, distill, sweep"),
        (["bench"], "the following arguments are required: "),
        (["sweep", "--launcher", "rya"], r"--launcher: 'rya' is not a choice; did you mean ray\?"),
        (["search", "--trials"], "argument --trials: expected one argument"),
        (["plan", "--probe", "maybe"], "probe: bool needed, not 'maybe'; write true or false"),
        (["completion"], "completion: '' is no shell; valid: bash, fish, powershell, tcsh, zsh"),
        (["completion", "basg"], r"completion: 'basg' is no shell; did you mean bash\?"),
        (["list", "--formt", "json"], r"unknown option --formt; did you mean --format\?"),
        (["list", "no_pyramid"], "unrecognized arguments: no_pyramid"),
        (["ui", "--port", "x"], "port: int needed, not 'x'"),
    ],
)
def test_the_other_commands_answer_a_mistake_alike(complaint, argv, message):
    assert re.match(message, complaint(*argv))


@pytest.mark.parametrize(
    ("in_python", "on_the_command_line"),
    [
        ("jobs_per_device: 0 must be", "--jobs-per-device: 0 must be"),
        ("address: give launcher=ray with it", "--address: give --launcher ray with it"),
        ("teacher.recipe: 'smok' is", "--teacher.recipe: 'smok' is"),
        ("budget.flops: 'x' is no amount", "--budget.flops: 'x' is no amount"),
        ("recipe.epochs: 0 must be", "recipe.epochs: 0 must be"),  # it may be of a file
        ("mine.yaml: seeds: 'x' is", "mine.yaml: seeds: 'x' is"),
    ],
)
def test_an_argument_is_named_as_an_option_on_the_command_line(in_python, on_the_command_line):
    assert with_dashes(in_python) == on_the_command_line
