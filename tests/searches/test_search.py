"""A search is a file, and what the command line says in place of it; what does not fit is refused."""

import json
import re
from pathlib import Path

import pytest

from levit_ablate import library
from levit_ablate.errors import UserError
from levit_ablate.searches.conduct import search_as_mapping
from levit_ablate.searches.plan import plan
from levit_ablate.searches.sampling import points_of_named
from levit_ablate.searches.search import KEYS, Search, changed, read, read_file


def written(text: str) -> Path:
    path = Path("mine.yaml")
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", library.names(library.SEARCHES))
def test_every_shipped_search_can_be_read(name):
    assert read(name).summary


def test_the_users_own_folder_comes_first_and_what_is_not_said_is_the_default():
    folder = Path("ablations/searches")
    folder.mkdir(parents=True)
    (folder / "equal_flops.yaml").write_text("summary: My own\nbudget: {flops: 3.5M}\ntrials: 7\n")
    found = read("equal_flops")
    assert found.summary == "My own" and found.budget == {"flops": 3.5e6} and found.trials == 7
    assert found.objectives == ("accuracy",) and found.enqueue == ("baseline",)


def test_the_command_line_is_laid_over_the_file():
    found = read_file(
        written("summary: s\nspace: {depth: 1:2, width: 64:96}\nbudget: {flops: baseline}\n")
    )
    found = changed(
        found,
        {
            "space": {"depth": {"2": "3"}, "design": {"norm": "batch"}},
            "budget": {"params": "2M", "latency": "5ms"},
            "enqueue": "baseline, no_pyramid",
            "seeds": "3,4",
            "trial": {"recipe": {"epochs": 2}},
        },
    )
    design = {"norm": "batch"}
    depth = {"others": "1:2", "2": "3"}  # a stage's own leaves the others theirs
    assert found.space == {"depth": depth, "width": "64:96", "design": design}
    assert found.budget == {"flops": "baseline", "params": 2e6, "latency": 0.005}
    assert found.enqueue == ("baseline", "no_pyramid") and found.seeds == (3, 4)


def test_a_geometry_of_ones_own_is_where_a_search_starts_and_is_recorded_with_it():
    folder = Path("ablations/models")
    folder.mkdir(parents=True)
    stages = "[{depth: 1, width: 24, num_heads: 2}, {depth: 1, width: 40, num_heads: 4}]"
    path = folder / "mine.yaml"
    path.write_text(
        f"summary: x\narchitecture: {{stages: {stages}, value_dim: 12, stem_width: 16, stem_depth: 2}}\n"
    )
    search = changed(read("flags"), {"enqueue": "baseline, no_pyramid"})
    planned = plan(search, {"model": "mine"})
    assert [stage.width for stage in planned.baseline.architecture.stages] == [24, 40]
    assert planned.named("no_pyramid").architecture.stem_width == 16
    path.unlink()
    assert plan(search, planned.given).key == planned.key


def test_a_front_is_not_pruned_by_accuracy_alone():
    assert changed(read("equal_flops"), {"objectives": "accuracy,params"}).pruner == "none"
    with pytest.raises(UserError, match="not pruned by accuracy alone"):
        changed(read("equal_flops"), {"objectives": "accuracy,flops", "pruner": "asha"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("summary: s\ntrails: 3", "unknown key trails; did you mean trials"),
        ("trials: 3", "summary: a line"),
        ("summary: s\ntrials: 0", "trials: 0 is no whole number"),
        ("summary: s\ntrials: many", "trials: 'many'"),
        ("summary: s\nsampler: tpee", "did you mean tpe"),
        ("summary: s\npruner: asa", "did you mean asha"),
        ("summary: s\nobjectives: [accuracy, flop]", "did you mean flops"),
        ("summary: s\nobjectives: [flops]", "accuracy, or accuracy and one cost"),
        ("summary: s\nobjectives: [accuracy, flops, params]", "one cost"),
        ("summary: s\nbudget: {flop: 3}", "budget.flop: unknown; did you mean flops"),
        ("summary: s\nbudget: {flops: much}", "write 305M, or baseline"),
        ("summary: s\nbudget: {flops: -3}", "is no amount"),
        ("summary: s\nbudget: {latency: baseline}", "write 5ms"),
        ("summary: s\nbudget: 3", "no mapping"),
        ("summary: s\nseeds: [1, 1]", "twice"),
        ("summary: s\nseeds: [101]", "101 is a seed of the trials"),
        ("summary: s\npruner: wilcoxon", "fewer than 5"),
        ("summary: s\npruner: wilcoxon\nseeds: [0, 1]", "fewer than 5"),
        ("summary: s\nbudget: {flops: 1e999}", "no amount"),
        ("summary: s\ngiven: {recipe: {epoch: 3}}", "did you mean epochs"),
        ("summary: s\ngiven: {seed: 3}", "seeds of its own"),
        ("summary: s\nenqueue: {a: b}", "no list of names"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_the_file(text, expected):
    with pytest.raises(UserError) as caught:
        read_file(written(text))
    said = str(caught.value)
    assert expected in said and said.startswith("mine.yaml: ") and "\n" not in said


@pytest.mark.parametrize(
    "said",
    [
        {"budget": {"latency": "5ms", "flops": "305M"}},
        {"budget": {"latency": "10us"}},
        {"budget": {"flops": "1e16"}},
        {"objectives": "accuracy,params", "enqueue": "no_pyramid"},
        {"space": {"width": {"1": "8:16", "others": "solved"}}, "seeds": "3,4", "confirm": 0},
    ],
)
def test_what_was_recorded_reads_back_as_it_was_asked(said):
    asked = changed(read("equal_flops"), said)
    recorded = json.loads(json.dumps(search_as_mapping(asked)))
    base = Search(name=asked.name, path=asked.path, summary=asked.summary)
    assert changed(base, {key: recorded[key] for key in KEYS if key != "summary"}) == asked


def test_the_example_of_the_documentation_is_a_search():
    text = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    planned = plan(read_file(written(example)), {})
    assert points_of_named(planned)[0].keys() == {"baseline", "no_pyramid"}


def test_an_unknown_name_gets_the_closest():
    with pytest.raises(UserError, match="did you mean equal_flops"):
        read("equal_flop")


def test_a_range_in_a_file_needs_no_quotes():
    """YAML 1.1 takes 2:5 for 125, in base 60."""
    assert read_file(written("summary: s\nspace: {depth: 2:5, width: 8:16}\n")).space == {
        "depth": "2:5",
        "width": "8:16",
    }


def test_a_stage_in_a_file_and_on_the_command_line_is_the_same():
    found = read_file(written("summary: s\nspace: {width: {1: solved, 2: 64}}\n"))
    assert changed(found, {"space": {"width": {"1": "48"}}}).space == {
        "width": {"1": "48", "2": 64}
    }
