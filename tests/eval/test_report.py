import json
import os
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from diffguide.eval.cli import main
from diffguide.eval.columns import DASH, MINUS
from diffguide.eval.report import page, write_report
from diffguide.eval.report_charts import Point, Series, line_chart, scatter_chart
from diffguide.eval.report_html import difference, table, text

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
VOID = {"meta", "link", "br", "img"}


class Checker(HTMLParser):
    """Collects tags and their attributes, and fails on one that is closed out of order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def html(finished_run):
    return (finished_run[1] / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def tags(html):
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker.seen


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(tags, html):
    links = [value for _, attributes in tags for key, value in attributes.items() if key in ("src", "href")]
    assert links
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"https?://|@import|url\(", html)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags
    assert "prefers-color-scheme: dark" in html


def test_pictures_and_charts_have_words_for_those_who_do_not_see_them(tags, finished_run):
    plan, _ = finished_run
    pictures = [attributes for tag, attributes in tags if tag == "img"]
    assert len(pictures) == 6 * len(plan.cells)
    assert pictures[0]["alt"] == "cfg at scale 2, 2 steps, seed 0: red apple"
    charts = [attributes for tag, attributes in tags if tag == "svg" and "aria-hidden" not in attributes]
    assert len(charts) >= 7
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert all(attributes.get("scope") for tag, attributes in tags if tag == "th")


def test_the_conclusion_comes_first_and_the_numbers_are_those_of_the_results(html, finished_run):
    results = json.loads((finished_run[1] / "results.json").read_text())
    assert results["conclusions"]
    assert html.index(results["conclusions"][0]) < html.index("<table>") < html.index("How this was measured")
    for cell in results["cells"]:
        assert f">{cell['metrics']['clipping']['value']:.4f}<" in html


def test_the_command_rebuilds_it(finished_run, capsys, tmp_path):
    folder = Path(shutil.copytree(finished_run[1], tmp_path / "copy"))
    (folder / "report.html").unlink()
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert (folder / "report.html").read_bytes() == (finished_run[1] / "report.html").read_bytes()
    assert main(["report", str(folder), "--seconds"]) == 0
    assert "seconds" in (folder / "report.html").read_text()
    (folder / "results.json").unlink()
    assert main(["report", str(folder)]) == 2


def test_names_are_escaped(finished_run):
    results = json.loads((finished_run[1] / "results.json").read_text())
    results["model"] = results["cells"][0]["guidance"] = "<script>alert(1)</script>"
    assert "<script>alert" not in page(results, "")


def test_a_difference_is_marked_when_its_interval_leaves_zero_out():
    better = difference("fid", {"value": -1.9, "low": -2.4, "high": -1.5})
    assert (better.kind, better.html) == (
        "better",
        "<strong>-1.90</strong><small>[-2.40, -1.50]</small>".replace("-", MINUS),
    )
    assert difference("clip_score", {"value": -1.9, "low": -2.4, "high": -1.5}).kind == "worse"
    assert difference("saturation", {"value": 0.1, "low": 0.05, "high": 0.2}).kind == ""
    assert difference("fid", {"value": -1.9, "low": -2.4, "high": 0.1}).html.startswith(f"{MINUS}1.90")
    assert difference("fid", {"value": None, "low": None, "high": None}).html == DASH
    assert table("nothing", ["rule"], []) == ""
    assert "&lt;b&gt;" in table("a", ["rule"], [[text("<b>")]])


def test_a_chart_holds_its_points_inside_its_frame():
    points = [Point(2, 10, 9, 11), Point(8, -3.5, -4, -3), Point(4, 0)]
    drawn = line_chart("t", "x", "y", [Series("cfg", 0, points), Series("flat", 1, [Point(2, 0), Point(8, 0)])])
    for x, y in re.findall(r'cx="([\d.-]+)" cy="([\d.-]+)"', drawn):
        assert 52 <= float(x) <= 328
        assert 26 <= float(y) <= 194
    assert line_chart("t", "x", "y", [Series("none", 0, [])]) == ""
    front = scatter_chart("t", "x", "y", [Series("a", 0, [Point(10, 5), Point(20, 4), Point(30, 6)])], lower=True)
    assert len(re.search(r'class="front" points="([^"]+)"', front)[1].split()) == 2
    assert "front" in scatter_chart("t", "x", "y", [Series("a", 0, [Point(1, 1), Point(2, 2)])], lower=False)


WATCH = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(String(event.message)), true);
console.error = console.warn = (...words) => problems.push(words.join(" "));
</script>"""
PROBE = """<script>
addEventListener("load", () => {
  const body = (table) => [...table.tBodies[0].rows];
  const values = (table, i) => body(table).map((row) => Number(row.cells[i].dataset.v));
  const rising = (list) => list.every((value, k) => k === 0 || list[k - 1] <= value);
  const report = { problems, sorted: [], pictures: document.images.length };
  report.broken = [...document.images].filter((image) => !image.complete || image.naturalWidth === 0).length;
  for (const table of document.querySelectorAll("table:not(.sheet)")) {
    const buttons = [...table.querySelectorAll("th button")];
    for (const [i, button] of buttons.entries()) {
      const count = body(table).length;
      button.focus();
      button.click();
      const up = values(table, i), state = button.closest("th").getAttribute("aria-sort");
      button.click();
      const numbers = up.every((value) => !Number.isNaN(value));
      const down = values(table, i).reverse();
      const good = state === "ascending" && body(table).length === count && document.activeElement === button;
      report.sorted.push(good && (!numbers || (rising(up) && rising(down))));
    }
  }
  report.width = document.documentElement.scrollWidth - innerWidth;
  report.paper = getComputedStyle(document.body).backgroundColor;
  document.documentElement.dataset.report = JSON.stringify(report);
});
</script></body>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install one, or name its file in CHROMIUM")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_real_browser_pictures_show_tables_sort_and_nothing_complains(html, scheme, tmp_path):
    watched = html.replace("<head>", "<head>" + WATCH).replace("</body>", PROBE)
    (tmp_path / "report.html").write_text(watched, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    colours = ["--blink-settings=preferredColorScheme=" + {"dark": "0", "light": "1"}[scheme]]
    command = [CHROMIUM, *options, *colours, "--window-size=500,900", (tmp_path / "report.html").as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = unescape(re.search(r'data-report="([^"]*)"', shown)[1])
    report = json.loads(found)
    assert report["problems"] == []
    assert (report["pictures"], report["broken"]) == (24, 0)
    assert len(report["sorted"]) > 20
    assert all(report["sorted"])
    assert report["width"] <= 0  # nothing makes the page itself scroll sideways
    assert report["paper"] == {"dark": "rgb(23, 25, 27)", "light": "rgb(253, 253, 251)"}[scheme]


def test_the_size_of_the_pictures_is_bounded(finished_run, monkeypatch, tmp_path):
    from diffguide.eval import report_sheets

    monkeypatch.setattr(report_sheets, "MOST", 60_000)
    folder = Path(shutil.copytree(finished_run[1], tmp_path / "copy"))
    write_report(folder)
    small = (folder / "report.html").read_text()
    assert 0 < small.count("<img") < 24
