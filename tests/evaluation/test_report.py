"""The report in a real browser: filter, search, paging, prompts, hostile text, phone and print."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import EXAMPLES, Ran

from llmcat.evaluation import report, report_markdown
from llmcat.evaluation.comparison import Question
from llmcat.evaluation.experiment import finish
from llmcat.evaluation.paired import Rule
from llmcat.evaluation.run_folder import Folder

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")

HOSTILE = "</script><img src=x onerror=alert(1)> & <b>bold</b> \u2028 '\""


def recorded(
    folder: Path, n: int, *, labels: int = 5, arms: dict[str, float] | None = None, seed: int = 0
) -> Folder:
    """A run's folder as a trial leaves it, from recorded answers right so often."""
    import numpy as np

    draw = np.random.default_rng(seed)
    names = [f"class-{i:03}" for i in range(labels)]
    arms = arms or {"a": 0.7, "b": 0.8}
    gold = [names[i] for i in draw.integers(labels, size=n)]
    folder.mkdir(parents=True)
    nodes = {name: {"path": [name], "parent": None, "names": {}} for name in names}
    (folder / "labels.json").write_text(json.dumps(nodes))
    with (folder / "items.jsonl").open("w") as items:
        for row, label in enumerate(gold):
            title = HOSTILE if row == 3 else f"thing number {row} of {label}"
            item = {"row": row, "id": f"id-{row}", "gold": label, "kept": {}}
            items.write(json.dumps(item | {"fields": {"title": title, "brand": "Öko"}}) + "\n")
    for arm, accuracy in arms.items():
        with (
            (folder / f"{arm}.predictions.jsonl").open("w") as rows,
            (folder / f"{arm}.asks.jsonl").open("w") as asks,
        ):
            right, p = draw.random(n) < accuracy, draw.uniform(0.3, 1.0, n).round(4)
            other = draw.integers(1, labels, size=n)
            for row, label in enumerate(gold):
                given = label if right[row] else names[(names.index(label) + other[row]) % labels]
                sure = p[row] if right[row] else 1 - p[row]
                answer: dict[str, Any] = {
                    "row": row, "id": f"id-{row}", "label": given, "decision": "labelled",
                    "confidence": p[row], "kind": "full", "reason": None, "gold": label,
                    "p_gold": sure, "p_squares": float(p[row] ** 2), "rank": 1 if right[row] else 2,
                }  # fmt: skip
                rows.write(json.dumps(answer) + "\n")
                tail = [{"role": "user", "content": f"title: thing {row}"}]
                asks.write(json.dumps({"row": row, "prefix": "k", "tail": tail}) + "\n")
        messages = [{"role": "system", "content": f"menu of {arm}\nA. {names[0]}"}]
        shared = json.dumps({"key": "k", "messages": messages})
        (folder / f"{arm}.prefixes.jsonl").write_text(shared + "\n")
    usage = {"prompt": 100 * n, "cached": 90 * n, "generated": n, "cost": 0.0}
    record = {
        "kind": "ab", "created": "2026-01-01T00:00:00+00:00", "llmcat": "0", "python": "3",
        "machine": "m",
        "command": ["llmcat", "ab"], "remarks": ["a remark"], "identity": {"items": "x"},
        "items": {"file": "items.jsonl", "rows": n, "unlabelled": 0, "n": n, "limit": 0, "seed": 0},
        "arms": {
            arm: {
                "said": "", "identity": {"prompt": "p", "model": "m"}, "usage": usage,
                "served": {"engine": "e", "version": "1", "model": "m"}, "asks": n, "asked_now": n,
                "price_per_hour": 0.0, "speed": None, "settings": {}, "prompt_text": "",
                "menus": [], "kind": "menu", "label_mass": None, "leaked": [],
            }
            for arm in arms
        },
    }  # fmt: skip
    held = Folder(folder, record)
    held.save("done")
    return held


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20,000 items, two arms, 30 classes."""
    held = recorded(tmp_path_factory.mktemp("report") / "run", 20_000, labels=30)
    finish(held, question=Question(rule=Rule()))
    return held.path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def page(browser: Any, made: Path) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.problems = []
    page.on("pageerror", lambda exc: page.problems.append(str(exc)))
    page.on("console", lambda m: page.problems.append(m.text) if m.type == "error" else None)
    page.on(
        "request", lambda r: page.problems.append(r.url) if not r.url.startswith("file:") else None
    )
    page.on("dialog", lambda d: page.problems.append(f"dialog {d.message}"))
    page.goto(f"file://{made / 'report.html'}")
    yield page
    assert not page.problems
    page.close()


def rows(page: Any) -> int:
    return int(page.locator("#rows tr.item").count())


def settled(page: Any, count: int) -> None:
    playwright.expect(page.locator("#rows tr.item")).to_have_count(count)


def found(page: Any) -> str:
    return str(page.locator("#items .pager .count").inner_text())


@needs_browser
def test_the_verdict_stands_on_top(page: Any) -> None:
    """As in the terminal; and every table has its numbers."""
    assert page.locator("h1").inner_text().startswith("ship b: accuracy +")
    assert page.locator("#remarks li").inner_text() == "a remark"
    text = page.locator("main").inner_text()
    for part in ("McNemar", "macro F1", "log loss", "Reliability", "Segments", "not measured"):
        assert part in text
    assert page.locator("#reliability svg path").count() == 2
    assert page.locator("#confusions svg .dot").count() > 100


@needs_browser
def test_filter_search_and_paging(page: Any) -> None:
    """50 rows at a time; filters and search narrow all of them, not the page."""
    disagree = int(found(page).rpartition(" ")[2].replace(",", ""))
    assert rows(page) == 50
    assert 0 < disagree < 20_000
    page.select_option("#kind", "all items")
    assert found(page) == "1–50 of 20,000"
    page.locator("#items .pager button").last.click()
    assert found(page) == "51–100 of 20,000"
    page.fill("#search", "number 19876")
    settled(page, 1)
    assert "thing number 19876 of" in page.locator("#rows tr.item").inner_text()
    page.fill("#search", "no such words")
    settled(page, 0)
    assert found(page) == "nothing fits"
    page.fill("#search", "")
    page.select_option("#kind", "right only in b")
    label = page.locator("#gold option").nth(3).inner_text()
    page.select_option("#gold", label=label)
    playwright.expect(page.locator("#rows tr.item")).not_to_have_count(0)
    for cells in page.locator("#rows tr.item").all()[:5]:
        assert label in cells.locator("td").nth(1).inner_text()
        assert cells.locator("td").nth(3).locator(".right").count() == 1
        assert cells.locator("td").nth(2).locator(".wrong").count() == 1


@needs_browser
def test_a_click_on_a_confusion_shows_its_items(page: Any) -> None:
    """And a click on the mark lifts it again."""
    before = found(page)
    page.locator("#confusions button:visible", has_text="show").first.click()
    mark = page.locator("#items .tools button:visible").first
    assert "→" in mark.inner_text()
    gold = mark.inner_text().split(" → ")[0]
    assert gold in page.locator("#rows tr.item td").nth(1).inner_text()
    mark.click()
    assert found(page) == before


@needs_browser
def test_prompts_on_demand(page: Any) -> None:
    """A click opens an item; each arm's messages are there when asked for."""
    page.locator("#rows tr.item").first.click()
    details = page.locator("#rows td.details")
    assert "Öko" in details.inner_text()
    details.locator("summary").nth(1).click()
    playwright.expect(details).to_contain_text("menu of b")
    playwright.expect(details).to_contain_text("title: thing")
    page.locator("#rows tr.item").first.press("Enter")
    assert page.locator("#rows td.details").count() == 0


@needs_browser
def test_hostile_text_is_text(page: Any) -> None:
    """Markup in an item does nothing."""
    page.select_option("#kind", "all items")
    page.fill("#search", "onerror")
    settled(page, 1)
    assert "<img src=x onerror=alert(1)>" in page.locator("#rows tr.item").inner_text()
    assert page.locator("img").count() == 0


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser: Any, made: Path, scheme: str) -> None:
    """At 375 points; in both colour schemes text stands out from the page."""
    page = browser.new_page(viewport={"width": 375, "height": 800}, color_scheme=scheme)
    page.goto(f"file://{made / 'report.html'}")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    text, ground = page.evaluate(
        "['color', 'backgroundColor'].map(p => getComputedStyle(document.body)[p]"
        ".match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b))"
    )
    assert abs(text - ground) > 400
    page.close()


@needs_browser
def test_it_prints(browser: Any, made: Path) -> None:
    """Controls are left out on paper."""
    page = browser.new_page()
    page.goto(f"file://{made / 'report.html'}")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert len(page.pdf()) > 10_000
    page.close()


@needs_browser
def test_300_classes(browser: Any, tmp_path: Path) -> None:
    """The matrix takes no more room than with 30."""
    held = recorded(tmp_path / "run", 3_000, labels=300)
    finish(held, question=Question())
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"file://{held.path / 'report.html'}")
    box = page.locator("#confusions details[open] svg").bounding_box()
    assert box["height"] <= 800
    assert page.locator("#classes .count").inner_text() == "1–20 of 300"
    page.close()


def test_markdown_has_the_same_content(made: Path) -> None:
    """The verdict first; tables that a pull request shows; item text is no markup."""
    found = report.read(made)
    text = report_markdown.markdown(found)
    assert text.startswith("## ship b: accuracy +")
    for section in report.sections(found):
        assert f"### {section.title}" in text
    assert "### Right only in b" in text
    table = [line for line in text.splitlines() if line.startswith("| accuracy ")]
    assert table
    assert report_markdown._row([HOSTILE.replace("\u2028", "")]).count("|") == 2
    assert "<b>" not in report_markdown._row([HOSTILE])


@needs_browser
def test_accuracy_is_plotted_against_what_is_sent(
    browser: Any, llmcat: Callable[..., Ran], tmp_path: Path
) -> None:
    """A point for each share from retrieval alone to all items, and its words when pointed at."""
    ran = llmcat(
        "eval", "--file", EXAMPLES / "items.jsonl", "--taxonomy", EXAMPLES / "taxonomy.yaml",
        "--engine", "fake", "--engine-option", "accuracy=0.95", "--sources", "lexical",
        "--prompt", "zero-shot-item-first", "--out", "run",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    page = browser.new_page()
    page.goto(f"file://{tmp_path / 'run' / 'report.html'}")
    assert page.locator("#sent svg path").count() == 1
    said = page.locator("#sent svg circle title").all_text_contents()
    assert len(said) == 21
    alone, both = (float(said[i].split("sent, ")[1].split(" %")[0]) for i in (0, -1))
    assert "0.0 % sent" in said[0]
    assert alone < both
    page.close()
