"""`import levit_ablate as la`: what Python trains and reads is what MLflow holds."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from multiprocessing.spawn import get_preparation_data
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from mlflow import MlflowClient
from networks import SMALL, write_small
from processes import Started, says_who, wait_for

import levit_ablate as la
from levit_ablate import library
from levit_ablate.api import launch
from levit_ablate.api.session import talking
from levit_ablate.cli.main import run_command

QUICK = {
    "architecture": SMALL,
    "recipe": ["smoke", {"batch_size": 128}],
    "hardware": {"accelerator": "cpu"},
}
UNDISTILLED = {**QUICK, "design": {"distillation": "none"}}
WORDS = (
    "--architecture small.yaml --recipe smoke --recipe.batch_size 128 --hardware.accelerator cpu"
).split()
SWEEP = {"variants": ["no_patch_conv"], "seeds": [0]}
SEARCH = {
    "trials": 2,
    "confirm": 0,
    "sampler": "random",
    "pruner": "none",
    "space": {"width": "4:32:2"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all of this works in, with its default store."""
    folder = tmp_path_factory.mktemp("api")
    write_small(folder)
    return folder


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def there(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def result(there: None) -> la.RunResult:
    teacher = {"recipe": {"epochs": 1, "warmup_epochs": 0}}
    return la.run("no_distillation", data="digits", teacher=teacher, **QUICK)


@pytest.fixture(scope="module")
def study(result: la.RunResult, there: None) -> la.Study:
    return la.sweep("paper", data="digits", jobs=2, **SWEEP, **UNDISTILLED)


@pytest.fixture(scope="module")
def search(result: la.RunResult, there: None) -> la.Search:
    return la.search("equal_flops", data="digits", **SEARCH, **UNDISTILLED)


@pytest.fixture
def client(folder: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    """What a command says as JSON."""
    assert run_command([*words, "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


# --- the names


def public(owner: object) -> Iterator[tuple[str, object]]:
    for name, value in vars(owner).items():
        if not name.startswith("_"):
            yield name, value.fget if isinstance(value, property) else value


def assert_described(name: str, function: object) -> None:
    assert inspect.getdoc(function), f"{name} has no docstring"
    signature = inspect.signature(function)  # type: ignore[arg-type]
    assert signature.return_annotation is not inspect.Signature.empty, f"{name} returns what?"
    for parameter in signature.parameters.values():
        typed = parameter.annotation is not inspect.Parameter.empty
        assert typed or parameter.name == "self", f"{name}: {parameter.name} has no type"


@pytest.mark.parametrize("name", la.__all__)
def test_a_public_name_has_a_docstring_and_types(name):
    value = getattr(la, name)
    assert inspect.getdoc(value)
    if not inspect.isclass(value):
        assert_described(name, value)
    elif value.__module__.startswith("levit_ablate.api"):
        for attribute, function in public(value):
            if inspect.isfunction(function):
                assert_described(f"{name}.{attribute}", function)


def test_the_names_are_the_same_for_people_and_for_type_checkers():
    tree = ast.parse(Path(la.__file__).read_text(encoding="utf-8"))
    [guarded] = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name for each in guarded.body for alias in each.names}
    assert set(la.__all__) == typed == set(la._HOMES) == set(dir(la))
    assert (Path(la.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = la.nothing


def test_the_import_and_the_lists_load_no_heavy_library():
    code = (
        "import sys, levit_ablate as la; dir(la); la.ablations(); la.list_studies();"
        "la.list_searches(); la.list_models(); la.Design(stem='patch'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {module.partition(".")[0] for module in done.stdout.split()}
    assert not loaded & {"torch", "lightning", "mlflow", "optuna", "matplotlib"}


def test_the_lists_are_data_frames_of_what_is_there():
    ablations = la.ablations()
    assert list(ablations["name"])[:2] == ["baseline", "no_pyramid"]
    assert set(ablations["name"]) == set(library.names())
    row = ablations.set_index("name").loc["no_pyramid"]
    assert (row["row"], row["paper_difference"]) == ("A1", -15.4)
    assert "paper" in set(la.list_studies()["name"])
    assert "equal_flops" in set(la.list_searches()["name"])
    assert {"levit_128s", "levit_nano"} <= set(la.list_models()["name"])


# --- one run


def test_a_network_is_that_of_the_ablation_for_the_models_images():
    network = la.network("no_pyramid", model="levit_128s").eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    same, other = (la.network(design={"stem": "patch"}, seed=seed) for seed in (1, 2))
    again = la.network("no_patch_conv", seed=1)
    weights, others = same.state_dict(), other.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())
    assert not all(torch.equal(value, weights[name]) for name, value in others.items())


def test_settings_are_names_mappings_objects_and_lists_of_them():
    said = [
        la.variant("no_pyramid", recipe=recipe, design=design, data=data)
        for recipe, design, data in (
            (["smoke", {"epochs": 3}], {"stem": "patch"}, "digits"),
            ([{"epochs": 9}, "smoke", la.Recipe(epochs=3)], la.Design(stem="patch"), la.Data()),
        )
    ]
    assert said[0].key == said[1].key
    assert said[0].experiment.recipe.epochs == 3 and not said[0].experiment.design.pyramid


def test_a_run_is_what_mlflow_holds(result, client):
    assert result.trained and result.baseline and result.baseline.trained
    for each in (result, result.baseline):
        run = client.get_run(each.run_id)
        assert run.info.status == "FINISHED" and run.data.tags["levit_ablate.key"] == each.key
        metrics = run.data.metrics
        assert each.accuracy == metrics["test_accuracy"] and each.loss == metrics["test_loss"]
        assert (each.params, each.flops) == (metrics["params"], metrics["flops"])
        curves = result.curves.query("name == @each.name")
        assert list(curves["epoch"]) == [1, 2]
        for metric in ("train_loss", "val_loss", "val_accuracy"):
            history = client.get_metric_history(each.run_id, metric)
            assert list(curves[metric]) == [point.value for point in history]
    assert result.difference == result.accuracy - result.baseline.accuracy
    assert "RunResult no_distillation: accuracy" in repr(result)


def test_the_recorded_network_reads_the_test_images_as_well_as_it_was_found_to(result):
    network, right, count = result.network(), 0, 0
    for images, labels in result.test_batches():
        with torch.inference_mode():
            right += int((network(images).argmax(dim=1) == labels).sum())
        count += len(labels)
    assert count == 450 and right / count == pytest.approx(result.accuracy)


def test_what_is_recorded_is_not_trained_again_and_nothing_is_printed(result, capfd, caplog):
    caplog.set_level(logging.INFO, "levit_ablate")
    again = la.run(
        "no_distillation", teacher={"recipe": {"epochs": 1, "warmup_epochs": 0}}, **QUICK
    )
    assert not again.trained and (again.run_id, again.accuracy) == (result.run_id, result.accuracy)
    assert capfd.readouterr() == ("", "")
    assert sum("already recorded" in record.message for record in caplog.records) == 2
    la.run("no_distillation", baseline=False, progress=True, **QUICK)
    out, err = capfd.readouterr()
    assert not out and err.count("already recorded") == 1


def test_the_command_line_finds_what_python_recorded_and_the_other_way(result, capsys):
    words = ["run", "no_distillation", "--no-baseline", *WORDS]
    said = printed(capsys, *words)
    assert not said["trained"] and said["run_id"] == result.run_id
    trained = printed(capsys, *words, "--seed", "5")
    own = la.run("no_distillation", baseline=False, seed=5, **QUICK)
    assert trained["trained"] and not own.trained
    assert own.as_dict() == {**trained, "trained": False}


def test_a_call_leaves_mlflow_and_the_streams_as_they_were(result, folder, monkeypatch):
    streams = sys.stdout, sys.stderr
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID")
    for name in names:  # which an earlier test may have left
        monkeypatch.delenv(name, raising=False)
    other = f"sqlite:///{folder / 'other.db'}"
    with pytest.raises(la.UserError, match="nothing is recorded there yet"):
        la.open_study("paper", tracking_uri=other)
    fresh = la.run("no_distillation", baseline=False, tracking_uri=other, **QUICK)
    again = la.run("no_distillation", baseline=False, **QUICK)
    assert fresh.trained and fresh.run_id != again.run_id == result.run_id
    assert fresh.accuracy == again.accuracy
    assert not os.environ.keys() & names
    assert (sys.stdout, sys.stderr) == streams


class _Printer(logging.Handler):
    """A handler that prints to whatever standard error is, as rich's does."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"logged: {record.getMessage()}", file=sys.stderr)


def test_a_handler_of_the_log_may_print(capsys, caplog):
    handler = _Printer()
    logger = logging.getLogger("levit_ablate")
    logger.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "levit_ablate"), talking(progress=False):
            print("a line")
    finally:
        logger.removeHandler(handler)
    assert capsys.readouterr() == ("", "logged: a line\n")


def test_a_redirection_that_outlives_a_call_leaves_no_stream_that_prints_to_itself(capsys):
    call, redirected = talking(progress=True), contextlib.redirect_stderr(io.StringIO())
    streams = sys.stdout, sys.stderr
    call.__enter__()
    redirected.__enter__()
    call.__exit__(None, None, None)
    redirected.__exit__(None, None, None)  # puts back what the call had put there
    with talking(progress=True):
        print("a line")
    assert capsys.readouterr() == ("", "a line\n")
    assert (sys.stdout, sys.stderr) == streams


def test_another_thread_and_a_running_event_loop_are_no_hindrance(result):
    found: list[la.RunResult] = []

    async def main() -> None:
        found.append(la.run("no_distillation", baseline=False, **QUICK))
        await asyncio.to_thread(
            lambda: found.append(la.run("no_distillation", baseline=False, **QUICK))
        )

    asyncio.run(main())
    assert [each.run_id for each in found] == [result.run_id] * 2


def test_threads_may_share_a_store_and_another_one_is_refused(result, folder):
    from levit_ablate.api.session import opened

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    refused: list[str] = []

    def other() -> None:
        with opened(uri, existing=True):
            pass
        try:
            with opened(f"sqlite:///{folder / 'third.db'}"):
                pass
        except la.UserError as error:
            refused.append(str(error))

    with opened(uri):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "MLflow has one store a process" in refused[0]
    assert not (folder / "third.db").exists()


INTERRUPTED = """
import signal, sys
import levit_ablate as la
before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
try:
    la.run("no_distillation", baseline=False, recipe={"epochs": 500})
except KeyboardInterrupt:
    print("interrupted", before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)))
print(la.network("baseline").__class__.__name__)
"""


def test_ctrl_c_interrupts_a_run_and_python_goes_on(tmp_path):
    process = Started(INTERRUPTED, cwd=tmp_path)
    client = None

    def is_training() -> bool:
        nonlocal client
        if not (tmp_path / "mlartifacts").is_dir():
            return False
        client = client or MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("levit-ablate")
        runs = client.search_runs([experiment.experiment_id]) if experiment else []
        return any("train_loss" in run.data.metrics for run in runs)

    wait_for(is_training, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert out.splitlines() == ["interrupted True", "LeViT"], err
    experiment = client.get_experiment_by_name("levit-ablate")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "KILLED"


# --- a study


def test_a_sweep_is_what_mlflow_holds(study, result, client):
    assert (study.name, study.dataset, study.seeds, study.failed) == ("paper", "digits", (0,), ())
    runs = study.runs
    assert list(runs["variant"]) == ["baseline", "no_patch_conv"] and list(runs["seed"]) == [0, 0]
    for row in runs.itertuples():
        run = client.get_run(row.run_id)
        assert run.data.metrics["test_accuracy"] == row.accuracy and row.error == ""
        history = client.get_metric_history(row.run_id, "val_accuracy")
        curve = study.curves.query("variant == @row.variant")
        assert list(curve["val_accuracy"]) == [point.value for point in history]
        assert list(curve["epoch"]) == [point.step + 1 for point in history]
    assert list(runs["difference"]) == [0.0, runs["accuracy"][1] - runs["accuracy"][0]]
    assert runs["accuracy"][0] == result.accuracy  # found: the same experiment
    experiment = client.get_run(study.run_id).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{study.run_id}'")
    assert {run.info.run_id for run in children} >= {runs["run_id"][1]}


def test_the_frames_and_plots_of_a_study(study):
    variants = study.variants.set_index("variant")
    assert variants.loc["no_patch_conv", "difference"] == study.runs["difference"][1]
    assert pd.isna(variants.loc["no_patch_conv", "low"])  # one seed
    assert variants["params"].gt(0).all() and variants["n"].eq(1).all()
    assert list(study.table()["ablation"]) == ["baseline", "no_patch_conv"]
    assert any("One seed" in note for note in study.notes)
    for draw in (study.plot.forest, study.plot.curves, study.plot.cost, study.plot.latency):
        assert isinstance(draw(), Figure)
    assert "| A2 |" in study.to("markdown")


def test_a_study_is_opened_as_it_was_swept_and_as_the_command_shows_it(study, capsys):
    for opened in (la.open_study("paper"), la.open_study("paper", **SWEEP, **UNDISTILLED)):
        pd.testing.assert_frame_equal(opened.runs, study.runs)
        assert opened.run_id == study.run_id
    said = printed(capsys, "table", "paper")
    assert [row["name"] for row in said["rows"]] == list(study.variants["variant"])
    assert json.loads(study.to("json")) == said


def test_a_plan_says_what_is_recorded(study):
    plan = la.plan("paper", variants=["no_patch_conv"], seeds=2, probe_time=False, **UNDISTILLED)
    states = plan.runs.set_index(["variant", "seed"])["state"]
    assert dict(states) == {
        ("baseline", 0): "recorded",
        ("baseline", 1): "missing",
        ("no_patch_conv", 0): "recorded",
        ("no_patch_conv", 1): "missing",
    }
    assert list(plan.variants["name"]) == ["baseline", "no_patch_conv"]


def test_a_job_has_the_environment_of_its_caller_and_not_of_the_first_one(tmp_path, monkeypatch):
    said = []
    for who in ("first", "second"):
        monkeypatch.setenv("WHO", who)
        hardware = la.Hardware(accelerator="cpu", work_dir=str(tmp_path))
        launcher = launch.Places(jobs=1).launch(says_who, hardware, "sqlite:///mlflow.db")
        with contextlib.closing(launcher):
            launcher.start(SimpleNamespace(log="job"))
            while not (events := launcher.events(1)):
                pass
        said.append(events[-1].news.error.split()[0])
    assert said == ["first", "second"]


def test_jobs_import_no_script_of_the_callers():
    """A script without `if __name__ == "__main__"` would run once more in every job."""
    with launch._without_main():
        prepared = get_preparation_data("job")
    assert not {"init_main_from_name", "init_main_from_path"} & prepared.keys()
    assert sys.modules["__main__"].__dict__.get("__builtins__")


# --- a search


def test_a_search_is_what_optuna_and_mlflow_hold(search, client):
    trials = search.trials
    assert list(trials["trial"]) == [0, 1] and set(trials["state"]) == {"complete"}
    for row, trial in zip(trials.itertuples(), search.study.get_trials(), strict=True):
        assert row.accuracy == trial.values[0]
        experiments = [each.experiment_id for each in client.search_experiments()]
        runs = client.search_runs(experiments, f"tags.`levit_ablate.key` = '{row.key}'")
        finished = [run.data.metrics for run in runs if run.info.status == "FINISHED"]
        assert finished and finished[0]["flops"] == row.flops
    assert any(name.startswith("width") for name in trials)
    best = search.best
    assert list(best["trial"]) == [1]  # the baseline is none
    assert best["lead"][0] == trials["accuracy"][1] - trials["accuracy"][0]
    assert best["confirmed"].isna().all()


def test_a_search_is_opened_as_it_was_made_and_as_the_command_shows_it(search, capsys):
    opened = la.open_search("equal_flops")
    pd.testing.assert_frame_equal(opened.trials, search.trials)
    said = printed(capsys, "search", "equal_flops", "--report")
    assert json.loads(search.to_json()) == said
    assert isinstance(search.plot.history(), Figure) and isinstance(search.plot.front(), Figure)


def test_the_network_of_a_trial_can_be_built_and_exported(search, folder):
    path = search.export("best", "mine")
    assert path == Path("ablations/mine.yaml")
    architecture = la.variant("mine", **UNDISTILLED).architecture
    assert architecture == search.variant("best").architecture
    assert search.network(1)(torch.zeros(2, 1, 32, 32))[0].shape[-1] == 10
    with pytest.raises(la.UserError, match="export=7: best, or a trial"):
        search.network(7)


# --- mistakes


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: la.run("no_pyramd"), "did you mean no_pyramid"),
        (lambda: la.run("no_pyramid", recip={}), "unknown key recip; did you mean recipe"),
        (lambda: la.run("no_pyramid", recipe={"epoch": 3}), "recipe.epoch; did you mean epochs"),
        (lambda: la.run("no_pyramid", recipe="smok"), "recipe: 'smok' is neither a YAML file nor"),
        (lambda: la.run("no_pyramid", recipe=3), "recipe: 3 is no mapping"),
        (lambda: la.run("no_pyramid", data="digit"), "did you mean digits"),
        (lambda: la.run("no_pyramid", design="x.yaml"), "x.yaml: cannot be read"),
        (lambda: la.run("no_patch_conv", design={"stem": "convolution"}), "changes nothing"),
        (lambda: la.run("no_pyramid", recipe={"batch_size": 5000}), "more than the 1,212"),
        (lambda: la.run("no_pyramid", tracking_uri="http://127.0.0.1:9"), "cannot be opened"),
        (lambda: la.network("no_pyramid", model="levit_129"), "no preset is called"),
        (lambda: la.sweep("papre"), "did you mean paper"),
        (lambda: la.sweep("paper", seed=3), "a study has seeds"),
        (lambda: la.sweep("paper", seeds=0), "seeds: 0: at least one is needed"),
        (lambda: la.sweep("paper", seeds=[1, 1]), "none twice"),
        (lambda: la.sweep("paper", variants=["no_pyramyd"]), "did you mean no_pyramid"),
        (lambda: la.sweep("paper", jobs_per_device=0), "jobs_per_device: 0"),
        (lambda: la.sweep("paper", launcher="slurm"), "valid: local, ray"),
        (lambda: la.sweep("paper", address="auto"), "address: is of a Ray"),
        (lambda: la.open_study("from_deit"), "from_deit: nothing is recorded"),
        (lambda: la.search("equal_flop"), "did you mean equal_flops"),
        (lambda: la.search("equal_flops", trials=0), "trials: 0"),
        (lambda: la.search("equal_flops", trial_epochs=0), "trial_epochs: 0"),
        (lambda: la.search("equal_flops", space={"dept": 3}), "did you mean depth"),
        (lambda: la.search("equal_flops", sampler="foo"), "sampler: 'foo' is not a choice"),
        (lambda: la.open_search("flags"), "nothing was searched yet"),
    ],
)
def test_a_mistake_is_a_user_error_in_one_line(call, said, study, search, monkeypatch):
    monkeypatch.setattr(
        "levit_ablate.runner.local.LocalLauncher.prepare", staticmethod(lambda work: None)
    )
    with pytest.raises(la.UserError) as raised:
        call()
    assert said in str(raised.value) and "\n" not in str(raised.value)


# --- the page about it

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_the_examples_in_the_documentation_run(result, monkeypatch):
    """Every block of docs/python.md, in order, with settings that take seconds."""
    for name in ("run", "sweep", "search"):
        function = getattr(la, name)
        monkeypatch.setattr(la, name, partial(_quickly, function))
    shutil.rmtree("ablations", ignore_errors=True)  # what another test exported
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(blocks) >= 6 and isinstance(names["search"], la.Search)


def _quickly(function, name, **settings):
    own = settings.pop("recipe", None)
    quick = {"workers": 1, "pruner": "none"} if "trials" in settings else {}
    recipe = [*QUICK["recipe"], own] if own else QUICK["recipe"]
    given = {**settings, **UNDISTILLED, **quick, "recipe": recipe}
    if "trials" in settings:
        given |= {"space": SEARCH["space"], "enqueue": ["baseline"]}
    elif function.__name__ == "run":
        given |= {"design": {}, "teacher": {"recipe": {"epochs": 1, "warmup_epochs": 0}}}
    return function(name, **given)
