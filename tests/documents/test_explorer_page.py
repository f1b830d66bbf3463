"""The explorer in a real Chromium, opened from a disk: it shows, finds, compares, copies, asks nothing of anybody."""

from __future__ import annotations

import ast
import errno
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptman.documents.explorer import EXPLORER
from ckptman.documents.reporting import report
from ckptman.ingestion import ingest
from ckptman.rules import convention_file
from ckptman.rules.convention_file import built_in
from ckptman.tree import history
from ckptman.tree.findings import Finding, finding
from tests.helpers.browser import Heard, opened
from tests.helpers.meddling import unlistable
from tests.helpers.other_labs import OUTPUTS
from tests.helpers.promises import caught, tried
from tests.helpers.raw import config, gen_metrics
from tests.helpers.recorded import add_overwritten, add_run
from tests.helpers.trees import edit_json

PROMISE = "Values from files in the explorer, in Chromium: text, nothing is run, fetched or shown otherwise"
TASK = "with_layernorm/dynamic/len_gen_k8/task_0006"
HOSTILE = "</script><img src=x onerror=alert(1)>"
TURNED = "\u202egnp.txt"
HIDDEN = "a\u200bb"
CELL = "td[aria-label^='L1, MLP off, mix, K 8']"


def find(root: Path) -> list[Finding]:
    return [
        finding("missing-seed", TASK, "it lacks seed 3337", values={"n_layers": 1, "use_mlp": False}),
        finding("unrecorded-file", f"{TASK}/seed_2337/{HOSTILE}.pt", f"{HOSTILE} is not listed, {TURNED} neither"),
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer without MLP of three seeds: complete, without what it saved on the way, overwritten; and others."""
    tree = tmp_path_factory.mktemp("explored") / f"tree's {HIDDEN}"
    one = {"n_layers": 1, "use_mlp": False}
    add_run(tree, config(**one, seed=1337), run_id="aaaa1111", metrics=gen_metrics(0.9) | {"train/loss": 0.5})
    run = add_run(tree, config(**one, seed=2337), run_id="bbbb2222", metrics=gen_metrics(0.7), kinds=("Final",))
    add_overwritten(tree, config(**one, seed=3337))
    add_run(tree, config(10, **one, seed=1337), run_id="cccc3333", metrics=gen_metrics(0.2))
    strange = add_run(tree, config(8, n_layers=2, seed=1337), run_id=HOSTILE, metrics={HOSTILE: 1.0, f"x{TURNED}": 2.0})
    edit_json(strange / "run.json", lambda doc: doc.update(group=HOSTILE, attribution={
        "code": TURNED, "evidence": HIDDEN, "candidates": []}))  # fmt: skip
    edit_json(strange / "run.json", lambda doc: doc["config"].update({HOSTILE: TURNED}))
    (run / f"{HIDDEN}.pt").write_bytes(b"nothing that can be read")
    curve = {step: {"gen/K17/exact_match_acc": step / 50000} for step in range(0, 40001, 4000)}
    data = history.dump(history.of_rows(curve))
    (tree / TASK / "seed_1337" / history.HISTORY_FILE).write_bytes(data)
    entry = {"size": len(data), "sha256": "0" * 64, "steps": 11, "metrics": 1, "sources": []}
    edit_json(tree / TASK / "seed_1337" / "run.json", lambda doc: doc.update(history=entry))
    report(tree, html="", find=find)
    return tree


@pytest.fixture
def shown(browser: Any, root: Path, heard: Heard) -> Iterator[Any]:
    explorer = opened(browser, root / EXPLORER, heard)
    yield explorer
    explorer.context.close()
    assert heard == Heard()


def go(explorer: Any, where: str) -> None:
    explorer.evaluate(f"location.hash = {json.dumps(where)}")
    explorer.wait_for_selector(f"[data-view={where.split('/')[1]}] > *", state="attached")


def clipboard(explorer: Any) -> str:
    explorer.context.grant_permissions(["clipboard-read", "clipboard-write"])
    return str(explorer.evaluate("navigator.clipboard.readText()"))


def column(explorer: Any, number: int) -> list[str]:
    texts = explorer.locator(f".space [aria-colindex='{number}']").all_text_contents()
    return [str(text) for text in texts]


def test_what_a_page_does_wrong_is_heard(browser: Any, root: Path, heard: Heard) -> None:
    with caught(PROMISE):
        is_heard(opened(browser, root / EXPLORER, heard), heard)


def is_heard(explorer: Any, heard: Heard) -> None:
    said = explorer.evaluate("fetch('http://127.0.0.1:9/x').then(() => 'sent', () => 'refused')")
    explorer.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color:red\" onclick=\"1\">x</p>')")
    explorer.evaluate("setTimeout(() => { throw new Error('wrong') })")
    explorer.wait_for_timeout(50)
    explorer.context.close()
    assert said == "refused"
    assert heard.requests == []
    assert [word for word in ("connect-src", "style", "script-src", "wrong") if word in " ".join(heard.errors)] == [
        "connect-src", "style", "script-src", "wrong"]  # fmt: skip


def test_a_cell_opens_its_runs_files_and_what_is_missing(shown: Any) -> None:
    assert shown.locator(CELL).get_attribute("aria-label") == (
        "L1, MLP off, mix, K 8: 80.0 ± 14.1 %, 2 runs, 1 overwritten, 2 findings"
    )
    shown.click(CELL)
    details = shown.locator("#details")
    assert details.locator("h2").text_content() == "L1, MLP off, mix"
    assert details.locator(".run summary").all_text_contents() == [
        "Seed 1337●complete90.0 %aaaa1111", "Seed 2337◑final only70.0 %bbbb2222", "Seed 3337⊘overwrittenlost3337",
    ]  # fmt: skip
    text = details.inner_text()
    assert "1 × Checkpoint (20001)" in text
    assert "Overwritten by" in text
    assert "it lacks seed 3337" in text
    assert details.locator(".files li").count() == 3
    assert details.locator(".sum code").first.get_attribute("title") == "0" * 64
    curve, by_length = (chart.get_attribute("aria-label") for chart in details.locator("svg.chart").all())
    assert curve == "Learning curves. gen/K*/exact_match_acc by iterations. seed 1337: 80.0 % at 40k"
    assert by_length.startswith("At the end of training.")
    assert "seed 2337: 70.0 % at 32" in by_length
    details.locator("svg.chart").first.focus()
    shown.keyboard.press("ArrowLeft")
    assert details.locator(".where").first.text_content() == "at iteration 36k"
    assert details.locator(".legend-lines").first.inner_text() == "seed 1337\n72.0 %"


def test_the_map_and_the_table_are_used_by_keys_alone(shown: Any) -> None:
    shown.keyboard.press("Tab")
    shown.keyboard.press("Enter")
    assert shown.evaluate("document.activeElement.id") == "main"
    shown.locator("td[tabindex='0']").first.focus()
    for key in ("End", "Home", "ArrowRight", "ArrowDown", "ArrowUp"):
        shown.keyboard.press(key)
    at = shown.evaluate("document.activeElement.getAttribute('aria-label')")
    assert "K 10: 20.0 %, 1 run, 2 missing" in at
    shown.keyboard.press("Enter")
    assert shown.evaluate("document.activeElement.id") == "details"
    shown.keyboard.press("Escape")
    assert shown.evaluate("document.activeElement.getAttribute('aria-label')") == at
    shown.keyboard.press("/")
    shown.wait_for_selector("#search:focus")
    shown.locator("#runs").focus()
    shown.keyboard.press("/")
    assert shown.evaluate("document.activeElement.id") == "search"
    shown.locator("#runs").focus()
    for key in ("ArrowDown", "ArrowRight"):
        shown.keyboard.press(key)
    active = shown.locator("#runs").get_attribute("aria-activedescendant")
    assert active == "run-1-1"
    assert shown.locator(f"#{active}").get_attribute("role") == "gridcell"
    shown.keyboard.press("Enter")
    assert shown.locator("#details").is_visible()


def test_runs_are_filtered_searched_and_sorted(shown: Any) -> None:
    go(shown, "#/runs")
    number = shown.locator("#number")
    total = number.text_content()
    for query, expected in {
        "bbbb2222": "1 of", "state=complete": "3 of", "overwritten": "1 of", "gen_em>=0.7": "2 of",
        "gen_em > 80%": "1 of", "k=10 gen_em<0.5": "1 of", "use_mlp=no seed=1337 complete": "3 of",
        "train/loss=0.5": "1 of", "nosuchthing": "0 of", "Final_N128_d8_H1_L1": "3 of", "000000": "4 of",
    }.items():  # fmt: skip
        shown.fill("#search", query)
        assert str(number.text_content()).startswith(expected), query
    shown.fill("#search", "")
    assert number.text_content() == total
    shown.select_option("select[aria-label=State]", "final only")
    assert column(shown, 1) == ["◑final only"]
    shown.select_option("select[aria-label=State]", "")
    place = shown.locator("[data-name=gen_em]")
    shown.click("[data-name=gen_em] button")
    assert place.get_attribute("aria-sort") == "descending"
    assert column(shown, int(place.get_attribute("aria-colindex")))[:4] == ["90.0 %", "70.0 %", "20.0 %", "–"]
    shown.click("[data-name=gen_em] button")
    assert column(shown, int(place.get_attribute("aria-colindex")))[:4] == ["20.0 %", "70.0 %", "90.0 %", "–"]
    shown.locator(".space .row").first.click()
    assert shown.locator("#details .run summary").first.text_content().endswith("cccc3333")


def test_configurations_are_compared_and_differences_marked(shown: Any) -> None:
    shown.click(CELL, modifiers=["Shift"])
    shown.locator("td[aria-label^='L1, MLP off, mix, K 10']").first.focus()
    shown.keyboard.press("c")
    shown.click("nav a:has-text('Compare')")
    shown.locator("[data-view=compare] tr.differs").first.wait_for()
    rows = shown.locator("[data-view=compare] tr.differs")
    assert [row.split("\t")[0] for row in rows.all_inner_texts()] == ["≠train_max_k"]
    assert shown.locator("tr.differs [role=img]").first.get_attribute("aria-label") == "differs:"
    shown.click("text=Only differences")
    assert shown.locator("[data-view=compare] tr:not(.differs)").count() > 20
    results = shown.locator("h2:has-text('Results') + div table").first.inner_text()
    assert "80.0 ± 14.1 % n = 2" in results
    assert "20.0 % n = 1" in results
    assert "K 10" in shown.locator("svg.chart").last.get_attribute("aria-label")
    shown.reload()
    shown.wait_for_selector("html[data-ready]")
    shown.locator(".chips li").nth(1).wait_for()
    shown.locator(".chips button").first.click()
    shown.locator(".chips li").nth(1).wait_for(state="detached")
    assert shown.locator(".chips li").count() == 1


def focused(explorer: Any) -> str:
    """What the control that has the focus is called, without the number beside it."""
    name = explorer.evaluate("""(() => {
      const at = document.activeElement;
      return at.getAttribute("aria-label") ?? (at.labels?.[0] ?? at).textContent;
    })()""")
    return str(name).rstrip("0123456789")


def test_the_focus_stays_where_it_was_used(shown: Any) -> None:
    for view in ("Runs", "Findings", "Compare"):
        shown.locator(f"nav a:has-text('{view}')").focus()
        shown.keyboard.press("Enter")
        shown.wait_for_selector(f"[data-view={view.lower()}] > *", state="attached")
        assert focused(shown) == view
    go(shown, "#/compare/0,1,2")
    shown.locator(".chips li").nth(2).wait_for()
    shown.locator("input[type=checkbox]").focus()
    shown.keyboard.press("Space")
    assert focused(shown) == "Only differences"
    second = shown.locator(".chips button").nth(1).get_attribute("aria-label")
    shown.locator(".chips button").first.focus()
    shown.keyboard.press("Enter")
    shown.locator(".chips li").nth(2).wait_for(state="detached")
    assert focused(shown) == second, "that of the next one, which has taken its place"
    go(shown, "#/runs")
    shown.locator("select[aria-label='Add or remove a column']").focus()
    shown.select_option(":focus", "folder")
    assert shown.locator("[data-name=folder]").count() == 1
    assert focused(shown) == "Add or remove a column"
    shown.evaluate("void document.activeElement.replaceWith('')")
    assert shown.evaluate("document.activeElement === document.body"), "the control"


def test_keys_open_a_list_of_which_one_is_taken(shown: Any) -> None:
    go(shown, "#/compare/0")
    adding = shown.locator("select[aria-label='Add a configuration']")
    adding.focus()
    shown.keyboard.press("ArrowDown")
    shown.wait_for_timeout(100)
    assert shown.locator(".chips li").count() == 1
    shown.keyboard.press("Escape")
    adding.evaluate("(list) => (list.showPicker = null)")
    adding.focus()
    shown.keyboard.press("ArrowDown")
    shown.locator(".chips li").nth(1).wait_for()  # the control: a list that is not opened


def test_figures_are_those_of_the_documents(browser: Any, tmp_path: Path, heard: Heard) -> None:
    """Those of the command line too: halves go to the even digit, and no sum of seeds tips the last one."""
    for seed, value in ((1337, 0.4), (2337, 0.5025), (3337, 0.515)):
        add_run(tmp_path, config(8, seed=seed), run_id=f"r{seed}", metrics=gen_metrics(value))
    add_run(tmp_path, config(10, seed=1337), run_id="other", metrics=gen_metrics(0.99964))
    report(tmp_path, html="")
    explorer = opened(browser, tmp_path / EXPLORER, heard)
    for k, text, spoken in ((8, "47.2", "47.2 ± 6.3 %"), (10, "99.96", "99.96 %")):
        cell = explorer.locator(f"td[aria-label*=', K {k}: ']:has(small)").first
        assert cell.locator("b").text_content() == text
        assert f": {spoken}, " in str(cell.get_attribute("aria-label"))
    readme = (tmp_path / "README.md").read_text()
    assert "99.96 %" in readme
    assert "47.2 % ± 6.3 " in (tmp_path / "TASK_MAPPING.md").read_text()
    explorer.locator("td[aria-label*=', K 8: ']:has(small)").first.click()
    assert explorer.locator(".run summary b").all_text_contents() == ["40.0 %", "50.2 %", "51.5 %"]
    assert explorer.evaluate("(100 * (0.4 + 0.5025 + 0.515) / 3).toFixed(1)") == "47.3", "the control"
    explorer.context.close()
    assert heard == Heard()


def test_a_run_whose_files_are_gone_has_no_part_in_the_means(browser: Any, tmp_path: Path, heard: Heard) -> None:
    for seed, value in ((1337, 0.4), (2337, 0.8)):
        folder = add_run(tmp_path, config(8, seed=seed), run_id=f"r{seed}", metrics=gen_metrics(value))
    for file, text in ((None, "60.0"), ("*.pt", "40.0")):
        for gone in folder.glob(file) if file else ():
            gone.unlink()
        report(tmp_path, html="")
        explorer = opened(browser, tmp_path / EXPLORER, heard)
        for metric in ("gen_em", "gen/K17/exact_match_acc"):
            explorer.locator("select").first.select_option(metric)
            assert explorer.locator("td[aria-label*=', K 8: ']:has(small)").first.locator("b").text_content() == text
        explorer.context.close()
    assert heard == Heard()


def test_the_legend_tells_what_is_drawn(browser: Any, shown: Any, tmp_path: Path, heard: Heard) -> None:
    def legend(page: Any) -> list[str]:
        return [str(text) for text in page.locator(".states li").all_text_contents()]

    everything = shown.locator(".check:has-text('Empty rows and columns') input")
    assert legend(shown) == ["not measured"]
    everything.check()
    assert legend(shown) == ["no run", "not measured"]
    no_grid = ", ".join(f"{group.pattern!r}: null" for group in built_in().groups)
    (tmp_path / "ckptman.yaml").write_text(f"groups: {{{no_grid}}}")
    add_run(tmp_path, config(8, seed=1337), metrics=gen_metrics(0.5))
    report(tmp_path, html="")
    explorer = opened(browser, tmp_path / EXPLORER, heard)
    assert explorer.locator("td[data-cell]").count() == 1
    assert explorer.locator(".check").count() == 0, "nothing is empty"
    explorer.context.close()
    assert heard == Heard()


def test_what_is_copied_works_where_it_is_pasted(shown: Any, root: Path) -> None:
    shown.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown.click(CELL)
    file = shown.locator("#details .files li").last
    name = f"Final_{file.locator('.name').text_content().split('_', 1)[1]}"
    path = str(root / TASK / "seed_2337" / name)
    assert Path(path).is_file()
    file.locator("button:text-is('Copy path')").click()
    assert clipboard(shown) == path
    file.locator("button:text-is('Copy loading code')").click()
    code = clipboard(shown)
    compile(code, "copied", "exec")
    call = ast.parse(code).body[-1]
    assert isinstance(call, ast.Assign)
    assert ast.literal_eval(call.value.args[0]) == path  # type: ignore[attr-defined]
    file.locator("button:text-is('Copy command')").click()
    words = subprocess.run(
        ["bash", "-c", f"for word in {clipboard(shown)}; do printf '%s\\0' \"$word\"; done"],
        capture_output=True, check=True,
    ).stdout.decode().split("\0")  # fmt: skip
    assert words == ["ckptman", "show", path, ""]
    assert shown.locator("#status").text_content() == "Copied: the command"
    shown.fill("#root", "/elsewhere")
    file.locator("button:text-is('Copy path')").click()
    assert clipboard(shown).startswith(f"/elsewhere/{TASK}/")


def test_without_a_clipboard_copying_falls_back(shown: Any) -> None:
    shown.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(new Error('denied')))")
    shown.click(CELL)
    shown.locator("#details button:text-is('Copy path')").first.click()
    shown.wait_for_selector("#status.visible")
    assert clipboard(shown).endswith(TASK)


def test_hostile_names_are_text(shown: Any, root: Path) -> None:
    with tried(PROMISE, 4):
        are_text(shown, root)


def are_text(shown: Any, root: Path) -> None:
    go(shown, "#/runs")
    shown.fill("#search", "onerror")
    shown.locator(".space .row").first.click()
    go(shown, "#/findings")
    for summary in shown.locator("details:not([open]) > summary").all():
        summary.click()
    text = shown.locator("body").inner_text()
    assert HOSTILE in text
    assert "\\u202egnp.txt" in text
    assert not set("\u202e\u200b") & set(shown.evaluate("document.documentElement.outerHTML"))
    assert shown.locator("img").count() == 0
    assert shown.locator("#title").text_content() == "tree's a\\u200bb"
    raw = (root / EXPLORER).read_text()
    assert "onerror" not in raw.split("<style>")[0]
    assert raw.count("<script") == 2


def test_findings_lead_to_what_they_are_about(shown: Any) -> None:
    go(shown, "#/findings")
    assert shown.locator("details.code > summary").all_inner_texts()[0].startswith("error")
    shown.locator("button:has-text('Show details')").first.click()
    assert shown.locator("#details h2").text_content() == "L1, MLP off, mix"


def test_colours_follow_the_system_until_they_are_chosen(browser: Any, root: Path, heard: Heard) -> None:
    def paper(explorer: Any) -> int:
        return int(explorer.evaluate("getComputedStyle(document.documentElement).backgroundColor.match(/[0-9]+/)[0]"))

    for dark in (True, False):
        explorer = opened(browser, root / EXPLORER, heard, dark=dark)
        assert (paper(explorer) < 100) is dark
        explorer.click("#theme")
        assert paper(explorer) > 200
        explorer.click("#theme")
        assert paper(explorer) < 100
        explorer.context.close()
    assert heard == Heard()


@pytest.mark.parametrize("width", [400, 800, 1400])
def test_nothing_overflows_and_every_control_has_a_name(browser: Any, root: Path, heard: Heard, width: int) -> None:
    explorer = opened(browser, root / EXPLORER, heard, width=width)
    for view in ("#/grid/0", "#/runs", "#/findings", "#/compare/0,1"):
        go(explorer, view)
        assert explorer.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        unnamed = explorer.evaluate("""
            [...document.querySelectorAll("button, select, input, a, [role=grid], svg[tabindex]")]
            .filter((item) => !(item.ariaLabel || item.textContent.trim() || item.labels?.length))
            .map((item) => item.outerHTML)
        """)
        assert unnamed == []
    explorer.context.close()
    assert heard == Heard()


def test_paper_gets_the_content_without_the_controls(shown: Any) -> None:
    shown.emulate_media(media="print", color_scheme="dark")
    assert shown.locator("nav").is_hidden()
    assert shown.locator("table.map").first.is_visible()
    assert shown.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    go(shown, "#/runs")
    assert shown.pdf().startswith(b"%PDF")


def test_paper_gets_what_is_folded(shown: Any) -> None:
    go(shown, "#/findings")
    shown.evaluate("document.querySelectorAll('details').forEach((item) => (item.open = false))")
    assert shown.locator(".finding").first.is_hidden(), "the control"
    shown.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert shown.locator(".finding").first.is_visible()
    shown.evaluate("dispatchEvent(new Event('afterprint'))")
    assert shown.locator(".finding").first.is_hidden()


def test_details_belong_to_their_view(shown: Any) -> None:
    shown.click(CELL)
    assert shown.locator("#details").is_visible()
    shown.click("nav a:has-text('Runs')")
    shown.locator("#details").wait_for(state="hidden")
    go(shown, "#/grid/0")
    assert shown.locator("#details").is_visible()


def test_runs_that_are_here_stand_first_and_alone_count_as_runs(shown: Any) -> None:
    assert shown.locator("nav a:has-text('Runs') .number").inner_text() == "4"
    go(shown, "#/runs")
    states = [text[1:] for text in column(shown, 1)[:6]]
    assert states == ["complete", "final only", "complete", "complete", "unreadable", "missing"]
    text = str(shown.locator("#number").text_content())
    assert text == "506 rows: 3 complete, 1 final only, 1 overwritten, 500 missing, 1 unreadable"


def test_long_names_break_no_layout(browser: Any, tmp_path: Path, heard: Heard) -> None:
    long = "long_" * 60
    folder = add_run(tmp_path, config(8, seed=1), run_id=long, metrics={f"{long}/em": 0.5} | gen_metrics(0.5))
    edit_json(folder / "run.json", lambda doc: doc["config"].update({long: TURNED * 30, "other": [1] * 300}))
    add_run(tmp_path, config(8, seed=1), run_id="short", notes=("short",))
    report(tmp_path, html="")
    explorer = opened(browser, tmp_path / EXPLORER, heard, width=400)
    names = explorer.locator("td[data-cell]").evaluate_all("cells => cells.map((cell) => cell.dataset.cell)")
    for view in ("#/grid", *(f"#/grid/{name}" for name in names[-2:]), f"#/compare/{','.join(names[-2:])}", "#/runs"):
        go(explorer, view)
        assert explorer.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        assert explorer.locator(".map th .spelled, .chip > .spelled").evaluate_all(
            "marks => marks.every((mark) => mark.offsetWidth < 80)"), view  # fmt: skip
    explorer.context.close()
    assert heard == Heard()


def test_lengths_beside_what_was_measured_have_no_band(browser: Any, tmp_path: Path, heard: Heard) -> None:
    tested = {f"test/K{k}/exact_match_acc": 1.0 for k in range(2, 9)}
    for mode, metrics in (("mix", gen_metrics(0.5)), ("curriculum", gen_metrics(0.5) | tested)):
        add_run(tmp_path, config(8, length_mode=mode, seed=1337), run_id=mode, metrics=metrics)
    report(tmp_path, html="")
    explorer = opened(browser, tmp_path / EXPLORER, heard)
    for mode, bands in (("mix", 0), ("curriculum", 2)):  # in the chart, and in its legend
        explorer.click(f"td[aria-label*=' {mode}, K 8']")
        assert explorer.locator("#details .band").count() == bands
    explorer.context.close()
    assert heard == Heard()


def test_a_single_length_has_no_fractions_of_it(browser: Any, tmp_path: Path, heard: Heard) -> None:
    for mode, lengths in (("mix", (17,)), ("curriculum", range(17, 33))):
        add_run(tmp_path, config(8, length_mode=mode), run_id=mode,
                metrics={f"gen/K{k}/exact_match_acc": 0.5 for k in lengths})  # fmt: skip
    report(tmp_path, html="")
    explorer = opened(browser, tmp_path / EXPLORER, heard)
    for mode, ticks in (("mix", {"17"}), ("curriculum", {"20", "25", "30"})):
        explorer.click(f"td[aria-label*=' {mode}, K 8']")
        shown = explorer.locator("#details svg.chart").last.locator("text").all_text_contents()
        assert {text for text in shown if re.fullmatch(r"[0-9.]+", text)} == ticks
    explorer.context.close()
    assert heard == Heard()


def test_a_tree_without_a_k_has_none_in_its_map(browser: Any, shown: Any, tmp_path: Path, heard: Heard) -> None:
    rules = convention_file.load_convention(convention_file.shipped()["nanogpt"])
    OUTPUTS["nanogpt"](tmp_path / "raw")
    ingest(tmp_path / "raw", tmp_path / "tree", convention=rules, settle=0)
    report(tmp_path / "tree", convention=rules, html="")
    page = opened(browser, tmp_path / "tree" / "report" / "explorer.html", heard)
    corner = "table.map th.corner"
    assert page.locator(corner).first.inner_text() == ""
    assert shown.locator(corner).first.inner_text() == "K", "the control: another tree has it"
    page.locator("table.map td").first.click()
    assert " K " not in page.locator("body").inner_text()
    page.context.close()


def test_runs_outside_of_the_grid_are_counted_and_told_apart(
    browser: Any, shown: Any, tmp_path: Path, heard: Heard
) -> None:
    group = "a_group_v128_e128_of_another_k16"
    for task in (0, 1):
        for number, notes in enumerate(((), ("again",))):
            add_run(tmp_path, config(8, wandb_group=group, seed=1), notes=notes,
                    run_id=f"r{task}{number}", source_task=task, metrics={"test/K3/exact_match_acc": 1.0})  # fmt: skip
    report(tmp_path, html="")
    explorer = opened(browser, tmp_path / EXPLORER, heard)

    def tiles(page: Any) -> list[str]:
        return [str(text) for text in page.locator(".tiles.summary dt").all_text_contents()]

    assert tiles(explorer) == ["Complete runs", "Checkpoints", "Overwritten", "Findings"]
    assert "Missing" in tiles(shown), "the control: a grid expects runs"
    assert explorer.locator(".tiles.summary b").first.text_content() == "4"
    assert explorer.locator("#metric").input_value() == "completeness", "the metric is measured of none"
    assert shown.locator("#metric").input_value() == "gen_em"
    labels = explorer.locator(".map tbody th span").all_text_contents()
    assert [label[-4:] for label in labels] == ["0000", "0001"]
    assert all(len(label) <= 30 for label in labels)
    whole = "spans => spans.every((span) => span.scrollWidth <= span.clientWidth)"
    assert explorer.locator(".map tbody th span").evaluate_all(whole), "none is cut once more, at its end"
    explorer.locator("td[data-cell]").first.click()
    lines = explorer.locator("#details .legend-lines span").all_text_contents()
    assert len({line for line in lines if line.startswith("seed 1, ")}) == 2
    explorer.context.close()
    assert heard == Heard()


def test_a_loss_is_no_share(browser: Any, shown: Any, tmp_path: Path, heard: Heard) -> None:
    rules = convention_file.load_convention(convention_file.shipped()["hf-trainer"])
    OUTPUTS["hf-trainer"](tmp_path / "raw")
    ingest(tmp_path / "raw", tmp_path / "tree", convention=rules, settle=0)
    report(tmp_path / "tree", convention=rules, html="")
    page = opened(browser, tmp_path / "tree" / EXPLORER, heard)
    cell = page.locator("table.map td").first
    assert cell.locator("b").text_content() == "0.8"
    cell.click()
    assert page.locator("#details .run summary b").all_text_contents() == ["0.8"]
    shown.click(CELL)
    for text in ("%", "95 % interval", "lists of each length"):
        assert text not in page.locator("#details .facts").first.inner_text()
        assert text in shown.locator("#details .facts").first.inner_text(), "the control: a share of lists"
    ends = page.locator("svg.chart").first.evaluate("""(chart) => [...chart.querySelectorAll("text")].map((text) =>
      chart.getBoundingClientRect().right - text.getBoundingClientRect().right)""")
    assert 0 <= min(ends) < 8, "room for the last step, 1000, whole"
    page.context.close()
    assert heard == Heard()


def test_an_empty_tree_says_that_it_is(browser: Any, tmp_path: Path, heard: Heard) -> None:
    (tmp_path / "ckptman.yaml").write_text("")
    report(tmp_path, html="")
    explorer = opened(browser, tmp_path / EXPLORER, heard)
    assert explorer.locator("td[data-cell]").count() == 0
    none = "There is no run in this tree yet."
    assert explorer.locator(".empty").inner_text() == f"{none} ckptman ingest GRID_OUTPUTS sorts raw outputs into it."
    for view, text in {"#/findings": "finds nothing wrong", "#/compare": "Nothing is chosen yet"}.items():
        go(explorer, view)
        assert text in explorer.locator("main").inner_text()
    go(explorer, "#/runs")
    explorer.fill("#search", "nothing")
    assert explorer.locator(".empty").inner_text() == none
    explorer.context.close()
    assert heard == Heard()


def test_of_a_tree_that_cannot_be_read_it_is_not_said_that_there_is_no_run(
    browser: Any, tmp_path: Path, heard: Heard
) -> None:
    add_run(tmp_path, config())
    with unlistable(tmp_path / "with_layernorm", errno.EACCES):
        report(tmp_path, html="")
    explorer = opened(browser, tmp_path / EXPLORER, heard)
    assert explorer.locator(".empty").inner_text() == "No run of this tree can be read."
    go(explorer, "#/runs")
    assert explorer.locator(".empty").inner_text() == "No run of this tree can be read."
    report(tmp_path)
    explorer.reload()
    explorer.wait_for_selector(".space .row")  # the control: the same tree, read
    assert explorer.locator(".empty").count() == 0
    explorer.context.close()
    assert heard == Heard()
