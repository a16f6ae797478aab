"""The table says what was found, what was not, and what it cannot be compared with."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import ACCURACIES, results, row
from rich.console import Console

from levit_ablate.analysis import formats, plots, table
from levit_ablate.analysis.formats import figures
from levit_ablate.analysis.results import run_frame


def test_every_figure_is_in_the_json():
    found = json.loads(formats.FORMATS["json"](results()))
    base, pyramid = found["rows"][:2]
    assert [each["name"] for each in found["rows"]] == list(ACCURACIES)
    assert base["accuracy_mean"] == pytest.approx(0.571)
    assert base["accuracy_sd"] == pytest.approx(0.0036056, abs=1e-6)
    assert base["difference"] is None and base["interval"] is None and base["p_holm"] is None
    assert pyramid["paper_row"] == "A1" and pyramid["n"] == 3
    assert pyramid["difference"] == pytest.approx(-0.132667, abs=1e-6)
    low, high = pyramid["interval"]
    assert low < -0.132667 < high < 0
    assert pyramid["p"] < pyramid["p_holm"] < 0.01
    assert pyramid["paper"]["accuracy"] == 56.5 and pyramid["paper"]["difference"] == -15.4
    assert found["rows"][4]["paper"] is None
    assert found["agreement"]["rows"] == 3 and found["agreement"]["signs"] == 3
    assert found["complete"]
    assert any("ImageNet-1k" in difference for difference in found["not_comparable"])


def test_one_seed_has_no_interval_anywhere_and_says_so():
    one = results(seeds=1)
    frame = table.cells(one)
    assert "95 % interval" not in frame and "p (Holm)" not in frame
    assert "±" not in "".join(frame["top-1 %"])
    assert "there is no interval" in table.notes(one)[0]
    assert all(each["interval"] is None for each in figures(one)["rows"])
    assert figures(one)["noise"] == {
        "deviation": None,
        "floor": None,
        "seeds_to_resolve_half_a_point": None,
    }
    assert "[" not in formats.text(one).split("Signs")[0]


def test_a_hole_is_marked_in_its_row_and_explained_below():
    base = row("baseline", ACCURACIES["baseline"])
    holed = results([base, row("no_pyramid", (0.43, None, 0.44)), row("class_token", (None,) * 3)])
    frame = table.cells(holed)
    assert frame["top-1 %"][1].endswith("(2 of 3)")
    assert frame["top-1 %"][2] == table.NONE == frame["Δ"][2]
    said = "\n".join(table.notes(holed))
    assert "Hole: no_pyramid, seed 1: failed: diverged" in said
    assert "Hole: class_token, seeds 0, 1, 2: failed: diverged" in said
    assert not holed.is_complete and not figures(holed)["complete"]
    difference = holed.rows[1].difference
    assert difference.num_pairs == 2 and difference.mean == pytest.approx(-0.134)  # seeds 0 and 2


def test_without_a_baseline_there_is_no_difference():
    without = results([row("baseline", (None,) * 3), row("no_pyramid", (0.4, 0.5, 0.6))])
    assert without.rows[1].difference is None
    assert formats.text(without) and plots.forest(without) is None


def test_the_notes_tell_signs_noise_and_seeds_and_what_is_not_comparable():
    said = "\n".join(table.notes(results()))
    assert "Signs as in the paper: 3 of 3" in said and "Kendall" in said
    assert re.search(r"4 ablations without any effect would show a largest \|Δ\| of 0\.\d\d", said)
    assert re.search(r"To resolve 0\.5 points takes \d+ seeds", said)
    assert "p: adjusted for 4 comparisons (Holm)." in said
    assert "dataset cifar10 (paper: ImageNet-1k)" in said and "epochs 20 (paper: 100)" in said


def test_rows_without_the_papers_have_none_of_its_columns():
    own = results([row("mine", (0.5, 0.6, 0.7)), row("other", (0.4, 0.6, 0.6))])
    assert not [title for title in table.cells(own) if title.startswith("paper")]
    assert "Not comparable" not in formats.text(own)


@pytest.mark.parametrize(("width", "parts"), [(200, 1), (120, 2), (100, 2), (80, 3), (60, 5)])
def test_a_narrow_terminal_gets_the_table_in_parts_and_no_number_is_cut(width, parts):
    console = Console(width=width, color_system=None, force_terminal=True)
    with console.capture() as captured:
        formats.show(results(), console)
    shown = captured.get()
    assert shown.count("no_pyramid") == parts
    assert "…" not in shown and max(map(len, shown.splitlines())) <= width
    for cell in table.cells(results()).to_numpy().flat:
        assert cell in shown


def test_a_table_in_a_file_is_as_wide_as_it_needs():
    long = results([row("baseline", (0.5, 0.6)), row("x" * 250, (0.4, 0.5))], seeds=2)
    assert "x" * 250 in formats.text(long)


def test_a_difference_to_another_baseline_is_held_to_the_papers_difference_of_the_two():
    rows = [row(name, ACCURACIES[name]) for name in ("no_pyramid", "no_patch_conv")]
    base, conv = figures(results(rows))["rows"]
    assert base["paper"]["accuracy"] == 56.5 and conv["paper"]["accuracy"] == 65.3
    assert conv["paper"]["difference"] == 8.8  # to no_pyramid, as ours
    own = results([row("mine", (0.5, 0.6, 0.7)), rows[1]])
    assert "difference" not in own.rows[1].paper and own.agreement is None


def test_an_interaction_is_what_two_cost_beyond_what_each_costs():
    base, first = row("baseline", (0.6, 0.6, 0.7)), row("a", (0.5, 0.5, 0.6))
    second = row("b", (0.4, 0.5, 0.5))
    both = row("a + b", (0.2, 0.4, 0.5), parts=("a", "b"))
    found = results([base, first, second, both])
    interaction = found.rows[3].interaction
    # −0.4, −0.2, −0.2 together; −0.3, −0.2, −0.3 one by one
    assert interaction.mean == pytest.approx(0.0, abs=1e-9)
    low, high = interaction.interval
    assert low == pytest.approx(-high) and high > 0.2
    assert [each["interaction"] is None for each in figures(found)["rows"]] == [True] * 3 + [False]
    assert "interaction" in table.cells(found) and "interaction" not in table.cells(results())


def test_another_matching_than_the_ablations_own_is_said():
    assert not any("matching" in each for each in table.not_comparable(results()))
    assert "cost matching none" in table.not_comparable(replace(results(), match="none"))


def test_runs_are_a_row_for_every_variant_and_seed():
    base = row("baseline", ACCURACIES["baseline"])
    frame = run_frame(results([base, row("class_token", (0.5, None, 0.6))]))
    assert list(frame.variant) == ["baseline"] * 3 + ["class_token"] * 3
    assert list(frame.seed) == [0, 1, 2] * 2
    assert frame.groupby("variant").accuracy.mean()["class_token"] == pytest.approx(0.55)
    hole = frame[frame.accuracy.isna()]
    assert list(hole.error) == ["failed: diverged"] and list(hole.run_id) == [""]


def test_csv_reads_back_with_a_row_a_variant():
    rows = list(csv.DictReader(io.StringIO(formats.csv(results()))))
    assert [each["name"] for each in rows] == list(ACCURACIES)
    assert float(rows[1]["difference"]) == pytest.approx(-0.132667, abs=1e-6)
    assert float(rows[1]["interval_low"]) < float(rows[1]["interval_high"])
    assert rows[1]["accuracies.2"] == "0.44" and rows[4]["paper.accuracy_percent"] == ""


def test_markdown_is_a_table_of_as_many_columns_everywhere():
    lines = [line for line in formats.markdown(results()).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(ACCURACIES)
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


class Page(HTMLParser):
    """Links and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.sources += [v for k, v in attrs if k in ("src", "href", "srcset") and v]

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_else():
    holed = results([row("baseline", (0.5, 0.6, 0.7)), row("<b>&x</b>", (0.4, 0.5, 0.5))])
    page = Page(formats.html(holed, {"differences": b"\x89PNG"}))
    assert page.sources and all(s.startswith("data:image/png;base64,") for s in page.sources)
    assert "<b>&x</b>" in page.text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    odd = row("no_x & {y} 50 % ~^\\ #$ _<>|", (0.4, None, 0.6))
    document = "\n".join(
        [
            r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}",
            formats.latex(results()),
            formats.latex(results([row("baseline", (0.5, 0.6, 0.7)), odd])),
            r"\end{document}",
        ]
    )
    Path("table.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert Path("table.pdf").stat().st_size > 5000
    assert b"Missing character" not in done.stdout


@given(st.text(max_size=20))
def test_what_latex_takes_for_something_else_is_escaped(text):
    escaped = formats.latex(results([row(f"a{text}", (0.5, 0.6)), row("b", (0.4, 0.5))], seeds=2))
    body = escaped.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert not re.search(r"(?<!\\)[#%]", body)
