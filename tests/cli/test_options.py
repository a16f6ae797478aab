"""The options that describe an experiment, and what is said of a wrong one."""

from __future__ import annotations

import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import yaml

from levit_ablate.cli.main import run_command
from levit_ablate.cli.options import add_conditions, parse, parser_for, plain, read_config
from levit_ablate.config import Data, Design, Experiment, Hardware, Recipe
from levit_ablate.errors import UserError
from levit_ablate.experiment import variant
from levit_ablate.library import from_recorded
from levit_ablate.recipes import RECIPES
from levit_ablate.schema import check_keys, experiment_from, flat

QUICK = RECIPES["quick"]
NANO = ("show", "baseline", "--model", "levit_nano")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def told(capsys):
    """Runs a command; gives its exit code and what it wrote."""

    def run(*argv):
        code = run_command(list(argv))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def resolved(told):
    """The experiment that the options of `show baseline` describe, by --print_config."""

    def run(*options):
        code, out, err = told(*NANO, *options, "--print_config")
        assert (code, err) == (0, "")
        mapping = yaml.safe_load(out)
        assert mapping.pop("name").startswith("baseline")
        for said in ("summary", "paper", "geometry"):
            mapping.pop(said, None)
        return experiment_from(mapping)

    return run


@pytest.fixture
def complaint(told):
    """What a user's mistake is answered by: one line, after the program's name."""

    def run(*argv):
        code, out, err = told(*argv)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"levit-ablate: [^\n]+\n", err)
        assert not re.search("Traceback|Namespace|jsonargparse|Union|typing|class '", err)
        return err.removeprefix("levit-ablate: ").strip()

    return run


def write(name: str, content: str) -> str:
    Path(name).write_text(content, encoding="utf-8")
    return name


# --- what can be set


@pytest.mark.parametrize(
    ("option", "value", "section", "field", "expected"),
    [
        ("--design.pooling", "class_token", "design", "pooling", "class_token"),
        ("--design.pyramid", "false", "design", "pyramid", False),
        ("--design.mlp_expansion", "3", "design", "mlp_expansion", 3.0),
        ("--design.position", "none", "design", "position", "none"),
        ("--recipe.epochs", "5", "recipe", "epochs", 5),
        ("--recipe.learning_rate", "1e-3", "recipe", "learning_rate", 0.001),
        ("--data.image_size", "40", "data", "image_size", 40),
        ("--hardware.num_threads", "2", "hardware", "num_threads", 2),
    ],
)
def test_a_single_field_is_set_by_its_dotted_name(
    resolved, option, value, section, field, expected
):
    for words in ([option, value], [f"{option}={value}"]):
        found = getattr(getattr(resolved(*words), section), field)
        assert found == expected
        assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("option", "word", "expected"),
    [
        ("recipe.epochs", "2:5", UserError),
        ("recipe.epochs", "0o20", 16),
        ("recipe.epochs", "010", 10),
        ("recipe.learning_rate", "1:30", UserError),
        ("recipe.learning_rate", "1e-3", 0.001),
        ("architecture.value_dim", "1:0", UserError),
        ("architecture.value_dim", "0o20", 16),
        ("data.split_seed", "1:4", UserError),
        ("seed", "2:5", UserError),
        ("seed", "0b11", 3),
        ("design.zero_init", "no", UserError),
        ("design.zero_init", "FALSE", False),
    ],
)
def test_a_word_is_the_same_on_the_command_line_and_in_a_file(option, word, expected):
    def on_the_command_line():
        parser = parser_for("show", "")
        add_conditions(parser)
        options = parse(parser, [f"--{option}", word])
        check_keys(options, Experiment, "")
        return options

    def in_a_file():
        *sections, key = option.split(".")
        opened = "".join(f"{section}: {{" for section in sections)
        return read_config(Path(write("a.yaml", f"{opened}{key}: {word}{'}' * len(sections)}")))

    for read in (on_the_command_line, in_a_file):
        if expected is UserError:
            remedy = "; write true or false" if word == "no" else ""
            with pytest.raises(UserError, match=f"{option}: .* needed, not '?{word}'?{remedy}"):
                read()
        else:
            assert flat(read()) == {option: expected}


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "--jobs", "1:0"],
        ["plan", "--probe", "no"],
        ["search", "--trials", "1:0"],
    ],
)
def test_the_options_of_other_commands_are_read_so(complaint, words):
    """Without a name, so that nothing is begun where the word is taken."""
    assert re.match(rf"{words[-2][2:]}: (int|bool) needed, not {words[-1]}", complaint(*words))


def test_seed_and_model_are_options_of_their_own(resolved):
    assert resolved("--seed", "7").seed == 7
    assert resolved("--model", "levit_micro").model == "levit_micro"


def test_several_options_of_a_section_are_set_together(resolved):
    design = resolved("--design.stem", "patch", "--design.norm", "layer").design
    assert design == Design(stem="patch", norm="layer")


def test_a_geometry_is_given_in_a_file_and_changed_by_a_field(resolved):
    stages = "stages: [{depth: 1, width: 24, num_heads: 2}, {depth: 2, width: 32, num_heads: 2}]"
    path = write("small.yaml", f"{stages}\nvalue_dim: 16\nstem_depth: 2\n")
    architecture = resolved("--architecture", path).architecture
    assert [stage.width for stage in architecture.stages] == [24, 32]
    assert (architecture.value_dim, architecture.stem_depth) == (16, 2)
    changed = resolved("--architecture", path, "--architecture.value_dim", "32").architecture
    assert (changed.stages, changed.value_dim) == (architecture.stages, 32)


def test_help_explains_every_field_of_an_experiment(capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(["show", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    sections = {"data": Data, "design": Design, "hardware": Hardware, "recipe": Recipe}
    for section, config in sections.items():
        assert all(f"--{section}.{field.name} " in text for field in fields(config))
    assert all(f"--{field.name} " in text for field in fields(Experiment))
    flat = " ".join(text.split())
    assert "From image to tokens: 3x3 convolutions of stride 2" in flat
    assert "Passes over the training images." in flat


# --- a section by name or file


@pytest.mark.parametrize(
    "options",
    [
        ["--recipe", "smoke", "--recipe.epochs", "5"],
        ["--recipe.epochs", "5", "--recipe", "smoke"],
        ["--recipe=smoke", "--recipe.epochs=5"],
    ],
)
def test_a_single_field_wins_over_a_named_recipe_in_either_order(resolved, options):
    assert resolved(*options).recipe == replace(RECIPES["smoke"], epochs=5)


def test_the_default_recipe_has_a_name_too(resolved):
    assert resolved("--recipe", "quick").recipe == resolved().recipe == QUICK
    assert resolved("--data", "digits").data == Data()


def test_the_last_of_two_recipes_wins(resolved):
    assert resolved("--recipe", "smoke", "--recipe", "quick").recipe == QUICK


@pytest.mark.parametrize(
    ("section", "content", "expected"),
    [
        (
            "recipe",
            "epochs: 9\nlearning_rate: 1e-3\n",
            replace(QUICK, epochs=9, learning_rate=0.001),
        ),
        ("data", "image_size: 40\n", Data(image_size=40)),
        ("design", "stem: patch\n", Design(stem="patch")),
        ("hardware", "num_threads: 1\n", Hardware(num_threads=1)),
    ],
)
def test_a_section_can_be_a_file(resolved, section, content, expected):
    path = write("section.yaml", content)
    assert getattr(resolved(f"--{section}", path), section) == expected


def test_a_teachers_recipe_can_be_a_file(resolved):
    path = write("mine.yaml", "epochs: 9\n")
    usual = resolved().teacher
    found = resolved("--teacher.recipe", path, "--teacher.top_k", "3").teacher
    assert found == replace(usual, top_k=3, recipe=replace(usual.recipe, epochs=9))


def test_a_single_field_wins_over_a_recipe_in_a_file_in_either_order(resolved):
    path = write("mine.yaml", "epochs: 9\nclip: 2\n")
    for options in (
        ["--recipe", path, "--recipe.epochs", "5"],
        ["--recipe.epochs", "5", "--recipe", path],
    ):
        assert resolved(*options).recipe == replace(QUICK, epochs=5, clip=2)


# --- config files


def test_a_config_file_sets_any_part_of_an_experiment(resolved):
    path = write("a.yaml", "recipe: {epochs: 7}\ndesign: {stem: patch}\nseed: 3\n")
    found = resolved("--config", path)
    assert (found.recipe, found.design, found.seed) == (
        replace(QUICK, epochs=7),
        Design(stem="patch"),
        3,
    )


def test_options_win_over_a_later_config_and_that_over_an_earlier(resolved):
    early = write("early.yaml", "recipe: {epochs: 7, clip: 2, weight_decay: 0.1}\nseed: 1\n")
    late = write("late.yaml", "recipe: {epochs: 8, clip: 3}\n")
    options = ["--config", early, "--recipe.epochs", "9", "--config", late]
    expected = replace(QUICK, epochs=9, clip=3, weight_decay=0.1)
    assert resolved(*options).recipe == expected
    assert resolved(*options).seed == 1
    swapped = resolved("--config", late, "--config", early).recipe
    assert (swapped.epochs, swapped.clip, swapped.weight_decay) == (7, 2, 0.1)


def test_a_named_recipe_wins_over_a_config_file(resolved):
    path = write("a.yaml", "recipe: {epochs: 7, clip: 2}\n")
    for options in (
        ["--config", path, "--recipe", "smoke"],
        ["--recipe=smoke", f"--config={path}"],
    ):
        assert resolved(*options).recipe == RECIPES["smoke"]


SMALL = "stages: [{depth: 1, width: 24, num_heads: 2}], value_dim: 16, stem_depth: 2"


@pytest.mark.parametrize("command", ["show", "run"])
@pytest.mark.parametrize("how", ["option", "config", "config with a name", "model"])
def test_a_geometry_is_the_baselines_too_however_it_is_given(told, command, how):
    write("small.yaml", f"{{{SMALL}}}")
    write("config.yaml", f"architecture: {{{SMALL}}}")
    write("named.yaml", f"name: no_patch_conv\narchitecture: {{{SMALL}}}")
    Path("ablations/models").mkdir(parents=True)
    write("ablations/models/small.yaml", f"summary: Small\narchitecture: {{{SMALL}}}")
    options = {
        "option": ["no_patch_conv", "--architecture", "small.yaml"],
        "config": ["no_patch_conv", "--config", "config.yaml"],
        "config with a name": ["--config", "named.yaml"],
        "model": ["no_patch_conv", "--model", "small"],
    }[how]
    code, printed, err = told(command, *options, "--data", "digits", "--print_config")
    assert (code, err) == (0, "")
    mapping = yaml.safe_load(printed)
    assert mapping["name"] == "no_patch_conv"
    assert mapping["geometry"] == mapping["architecture"]
    assert mapping["model"] == ("small" if how == "model" else "own geometry")
    shown = variant(*from_recorded(mapping, Path("recorded.yaml")))
    assert list(shown.differences()) == ["design.stem"]


def test_beside_a_name_a_recorded_experiment_gives_its_conditions_alone(told):
    """Its explicit design would undo what the name says."""
    write("small.yaml", f"{{{SMALL}}}")
    options = ["--architecture", "small.yaml", "--data", "digits", "--seed", "3"]
    _, printed, _ = told("show", "no_patch_conv", *options, "--print_config")
    path = write("recorded.yaml", printed)
    other = told("show", "no_hardswish", "--config", path, "--print_config")
    assert other == told("show", "no_hardswish", *options, "--print_config")


@pytest.mark.parametrize(
    "option",
    [
        ["--model", "levit_micro"],
        ["--architecture", "small.yaml"],
        ["--config", "model.yaml"],
    ],
)
def test_a_recorded_network_is_not_compared_with_a_baseline_of_another_geometry(told, option):
    write("small.yaml", f"{{{SMALL}}}")
    _, printed, _ = told("show", "no_patch_conv", "--data", "digits", "--print_config")
    path = write("recorded.yaml", printed)
    write("model.yaml", "model: levit_micro\n")
    code, _, err = told("show", "--config", path, *option)
    assert code == 2
    assert (
        f"{option[0].replace('config', 'model')}: {path} records a network of its own; name an ablation"
        in err
    )


def test_a_config_file_can_name_the_ablation_and_the_command_line_another(told):
    path = write("a.yaml", "name: no_patch_conv\nmodel: levit_nano\n")
    _, out, _ = told("show", "--config", path, "--print_config")
    assert yaml.safe_load(out)["name"] == "no_patch_conv"
    _, out, _ = told("show", "no_hardswish", "--config", path, "--print_config")
    assert yaml.safe_load(out)["name"] == "no_hardswish"


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (["baseline"], {}),
        (
            ["no_pyramid", "--recipe", "smoke", "--seed", "3"],
            {"recipe": asdict(RECIPES["smoke"]), "seed": 3},
        ),
        (
            ["no_wider_blocks", "--match", "none", "--data.image_size", "40"],
            {"match": "none", "data": {"image_size": 40}},
        ),
        (["no_batch_norm", "--design.stem", "patch"], {"design": {"stem": "patch"}}),
    ],
)
def test_a_printed_config_reproduces_the_experiment_and_its_key(told, options, given):
    name = options[0]
    code, printed, _ = told("show", *options, "--model", "levit_nano", "--print_config")
    assert code == 0
    path = write("printed.yaml", printed)
    assert told("show", "--config", path, "--print_config") == (0, printed, "")

    mapping = yaml.safe_load(printed)
    changed = {"design", "match"} & set(given)
    assert mapping["name"].startswith(f"{name} + " if changed else name)
    again = variant(*from_recorded(mapping, Path(path)))
    for said in ("name", "summary", "paper", "geometry"):
        mapping.pop(said, None)
    assert again.experiment == experiment_from(mapping)
    assert again.key == variant(name, given).key


# --- mistakes

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
    "empty choice": (["--design.stem="], r"design\.stem: '' is not a choice; valid: convolution,"),
    "wrong format": (["--format", "xml"], "format: 'xml' is not a choice; .*valid: json, text"),
    "wrong match": (["--match", "flop"], r"match: 'flop' is not a choice; did you mean flops\?"),
    "text for a whole number": (
        ["--recipe.epochs", "many"],
        r"recipe\.epochs: int needed, not many",
    ),
    "a fraction for a whole number": (["--recipe.epochs", "1.5"], r"recipe\.epochs: int needed"),
    "text for a number": (
        ["--recipe.learning_rate", "fast"],
        r"recipe\.learning_rate: float needed, not fast",
    ),
    "text for a truth value": (
        ["--design.pyramid", "maybe"],
        r"design\.pyramid: bool needed, not maybe",
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
def test_a_bad_config_file_is_named_with_the_key(complaint, problem):
    content, message = FILES[problem]
    path = write("mine.yaml", content)
    assert re.match(f"mine.yaml: {message}", complaint(*NANO, "--config", path))


def test_a_bad_config_is_found_behind_a_good_one(complaint):
    good, bad = write("good.yaml", "seed: 1"), write("bad.yaml", "sed: 1")
    message = complaint(*NANO, "--config", good, "--config", bad)
    assert message.startswith("bad.yaml: unknown key sed; did you mean seed?")


def test_what_is_not_yaml_is_named_with_the_line(complaint):
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
def test_a_bad_recipe_file_is_named_with_the_key(complaint, content, message):
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
            r"command 'lst' is not known; did you mean list\? valid: bench, list, plan, run, search, show, sweep, table, teacher, ui",
        ),
        (["--verison"], "command '--verison' is not known; "),
        (["list", "--formt", "json"], r"unknown option --formt; did you mean --format\?"),
        (["list", "no_pyramid"], "unrecognized arguments: no_pyramid"),
        (["ui", "--port", "x"], "port: int needed, not x"),
    ],
)
def test_the_other_commands_answer_a_mistake_alike(complaint, argv, message):
    assert re.match(message, complaint(*argv))


def test_a_recorded_ablation_of_ones_own_needs_its_file_no_more(told, tmp_path, monkeypatch):
    write("zed.yaml", "summary: Mine\nmatch: flops\ndesign: {stem: patch}\n")
    code, printed, _ = told("show", "zed.yaml", "--model", "levit_nano", "--print_config")
    assert code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path = write("recorded.yaml", printed)
    assert told("show", "--config", path, "--print_config") == (0, printed, "")


def test_a_recipe_is_named_in_a_config_file_as_on_the_command_line(resolved):
    path = write("a.yaml", "recipe: smoke\n")
    assert resolved("--config", path).recipe == RECIPES["smoke"]


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (
            "Parser key \"design.stem\":\n  Expected a typing.Literal['convolution', 'patch']. "
            "Got value: pach",
            "design.stem: 'pach' is not a choice; did you mean patch? valid: convolution, patch",
        ),
        (
            "Parser key \"recipe.precision\":\n  Expected a typing.Literal['32-true', 'bf16-mixed'"
            ", '16-mixed']. Got value: bf16",
            "recipe.precision: 'bf16' is not a choice; did you mean bf16-mixed? "
            "valid: 16-mixed, 32-true, bf16-mixed",
        ),
        (
            "Parser key \"design.stem\":\n  Expected a typing.Literal['convolution', 'patch']. "
            "Got value: ",
            "design.stem: '' is not a choice; valid: convolution, patch",
        ),
        (
            "Parser key \"seed\":\n  Expected a <class 'int'>. Got value: many",
            "seed: int needed, not many",
        ),
        ("unrecognized arguments:\n   --seeed 3", "unrecognized arguments: --seeed 3"),
    ],
)
def test_a_parsers_message_becomes_one_plain_line(message, line):
    assert plain(message) == line
