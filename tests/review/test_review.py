"""The review page in a real browser: two people, keys, undo, kill -9, a phone, no server."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openpyxl
import pytest
import yaml
from helpers import Ran, free_port, read_rows
from llmcat_serve.review.queue import Entry, Queue, in_order, kappa, twice

from llmcat.annotations.store import Label, LabelStore

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")
Cli = Callable[..., Ran]
LABELS = "shoes,bags,toys,lamps,chairs"
HOSTILE = "</script><img src=x onerror=alert(1)> red shoes & <b>bold</b>"


@pytest.fixture
def predictions(tmp_path: Path, llmcat: Cli) -> Path:
    """Two hundred items with their predictions, in a table."""
    words = LABELS.split(",")
    rows = [{"id": f"i{n}", "title": f"thing {n} {words[n % 5]}"} for n in range(199)]
    rows.append({"id": "x", "title": HOSTILE})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "items.jsonl").write_text(text)
    ran = llmcat("classify", "items.jsonl", "--labels", LABELS, "--engine", "fake",
                 "--out", "out.csv")  # fmt: skip
    assert ran.code == 0, ran.err
    return tmp_path / "out.csv"


class Served:
    """`llmcat review` as a process of its own."""

    def __init__(self, predictions: Path, *flags: str) -> None:
        self.port, self.predictions, self.flags = free_port(), predictions, flags
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "llmcat", "review", self.predictions.name, "--labels",
                   LABELS, "--port", str(self.port), *self.flags]  # fmt: skip
        self.process = subprocess.Popen(command, cwd=self.predictions.parent,
                                        stderr=subprocess.PIPE, text=True)  # fmt: skip
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert "items to check" in line, line + self.process.stderr.read()
        self.url = f"http://127.0.0.1:{self.port}/"

    def stop(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)
        self.process.wait(20)
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def opened(browser: Any, url: str, who: str, **how: Any) -> Any:
    page = browser.new_context(**how).new_page()
    page.on("pageerror", lambda error: pytest.fail(f"the page failed: {error}"))
    page.on("dialog", lambda _: pytest.fail("text became script"))
    page.goto(url)
    page.locator("#who").fill(who)
    page.locator("#who").press("Enter")
    return page


def title(page: Any) -> str:
    return str(page.locator("#title").inner_text())


def press(page: Any, key: str) -> str:
    """Press a key; return the title that comes next."""
    before = title(page)
    page.keyboard.press(key)
    page.wait_for_function(
        "before => document.getElementById('title').textContent !== before || "
        "!document.getElementById('over').hidden", arg=before,
    )  # fmt: skip
    return title(page)


@needs_browser
def test_two_people_see_each_item_once(predictions: Path, browser: Any) -> None:
    """Every click is stored; a kill -9 in between loses nothing; an undo is undone."""
    served = Served(predictions)
    anna, ben = (opened(browser, served.url, who) for who in ("anna", "ben"))
    seen: list[str] = []
    for page in (anna, ben):
        playwright.expect(page.locator("#title")).not_to_be_empty()
    for turn in range(30):
        for page in (anna, ben):
            seen.append(title(page))
            press(page, "1" if turn % 5 else "n")
    assert len(set(seen)) == len(seen) == 60
    store = LabelStore(predictions.parent / "labels.sqlite")
    assert len(store.words("person")) == 60
    served.stop(signal.SIGKILL)
    served.start()
    for page in (anna, ben):
        page.reload()
        playwright.expect(page.locator("#progress")).to_contain_text("60 of 200 checked")
    before = title(anna)
    assert before not in seen
    press(anna, "2" if anna.locator("#menu li").count() > 1 else "n")
    assert len(store.words("person")) == 61
    assert press(anna, "u") == before
    assert len(store.words("person")) == 60
    press(anna, "s")
    assert before != title(anna)
    anna.locator("#progress", has_text="60 of 200").wait_for()
    served.stop()
    store.close()


@needs_browser
def test_by_search_and_doubts(predictions: Path, browser: Any) -> None:
    """A category by its name, the taxonomy in doubt, a second opinion from somebody else."""
    served = Served(predictions, "--decision", "labelled")
    anna = opened(browser, served.url, "anna")
    playwright.expect(anna.locator("#title")).not_to_be_empty()
    first = title(anna)
    anna.keyboard.press("/")
    anna.keyboard.type("lam")
    playwright.expect(anna.locator("#found li")).to_have_text(["lamps"])
    anna.keyboard.press("Enter")
    anna.wait_for_function("t => document.getElementById('title').textContent !== t", arg=first)
    second = title(anna)
    assert press(anna, "o") != second
    ben = opened(browser, served.url, "ben")
    playwright.expect(ben.locator("#title")).to_have_text(second)
    with LabelStore(predictions.parent / "labels.sqlite") as store:
        assert [(word.label, word.by) for word in store.words("person")] == [("lamps", "anna")]
    anna.keyboard.press("t")
    anna.wait_for_timeout(200)
    with urllib.request.urlopen(f"{served.url}progress") as reply:  # noqa: S310  loopback
        assert json.load(reply)["doubts"] == 1
    served.stop()


@needs_browser
def test_on_a_phone_and_to_a_screen_reader(predictions: Path, browser: Any) -> None:
    """Nothing is cut off on a narrow screen; axe finds nothing to object to; text is text."""
    from axe_playwright_python.sync_playwright import Axe

    served = Served(predictions, "--order", "random")
    for size in ({"width": 390, "height": 780}, {"width": 1280, "height": 800}):
        page = opened(browser, served.url, "anna", viewport=size)
        playwright.expect(page.locator("#title")).not_to_be_empty()
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    served.stop()


def of_a_colleague(folder: Path, browser: Any, llmcat: Cli) -> Any:
    """A page without a server, of five items, as somebody opens it."""
    ran = llmcat("review", "out.csv", "--labels", LABELS, "--static", "check.html", "--sample", "5",
                 "--order", "random")  # fmt: skip
    assert ran.code == 0, ran.err
    return opened(browser, (folder / "check.html").as_uri(), "carla")


def saved(page: Any, path: Path) -> list[dict[str, Any]]:
    """What the page saves."""
    with page.expect_download() as download:
        page.locator("#save").click()
    download.value.save_as(path)
    return list(json.loads(path.read_text()))


@needs_browser
def test_a_page_without_a_server(predictions: Path, browser: Any, llmcat: Cli) -> None:
    """A colleague opens a file; what it saves is imported, and put over the predictions."""
    page = of_a_colleague(predictions.parent, browser, llmcat)
    playwright.expect(page.locator("#progress")).to_have_text("0 of 5 checked")
    for key in ("1", "n", "1"):
        press(page, key)
    press(page, "u")
    for key in ("n", "1", "n"):
        press(page, key)
    playwright.expect(page.locator("#over")).to_contain_text("save the answers")
    playwright.expect(page.locator("#save")).to_be_visible()
    answers = saved(page, predictions.parent / "answers.json")
    assert [a["by"] for a in answers] == ["carla"] * 5
    ran = llmcat("apply", "out.csv", "--corrections", "answers.json", "--labels", LABELS,
                 "-o", "final.csv")  # fmt: skip
    assert ran.code == 0, ran.err
    assert re.search(
        r"200 rows: \d changed, \d as they were said to be, 195 not looked at", ran.err
    )


@needs_browser
def test_notes_come_back_without_a_server(predictions: Path, browser: Any, llmcat: Cli) -> None:
    """What a colleague could not label is said with its reason; one that is undone is gone."""
    page = of_a_colleague(predictions.parent, browser, llmcat)
    for key in ("t", "u", "o", "t", "s", "n", "o"):
        press(page, key)
    playwright.expect(page.locator("#over")).to_contain_text("save the answers")
    answers = saved(page, predictions.parent / "answers.json")
    said = [(a["label"], a["note"]) for a in answers]
    assert said == [("", "opinion"), ("", "taxonomy"), ("none", ""), ("", "opinion")]
    apply = ("apply", "out.csv", "--corrections", "answers.json", "--labels", LABELS)
    ran = llmcat(*apply, "-o", "final.csv")
    assert ran.code == 0, ran.err
    assert f"the taxonomy is wrong at 1 items: {answers[1]['id']}" in ran.err
    assert f"a second opinion is wanted at 2 items: {answers[0]['id']}, " in ran.err
    imported = llmcat("labels", "import", "--file", "answers.json", "--labels", LABELS,
                      "--store", "l.sqlite")  # fmt: skip
    assert (imported.code, "1 new labels" in imported.err) == (0, True), imported.err
    only = [answer for answer in answers if not answer["label"]]
    (predictions.parent / "answers.json").write_text(json.dumps(only))
    ran = llmcat(*apply, "-o", "again.csv")
    assert (ran.code, "0 changed" in ran.err, "is wrong at 1 items" in ran.err) == (0, True, True)


@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".json"])
def test_other_tools(predictions: Path, llmcat: Cli, suffix: str) -> None:
    """A table with a place for the label, tasks for Label Studio; what comes back is applied."""
    folder = predictions.parent
    ran = llmcat("review", "out.csv", "--labels", LABELS, "--sample", "4", "--order", "random",
                 "--export", f"check{suffix}")  # fmt: skip
    assert ran.code == 0, ran.err
    if suffix == ".json":
        assert '<Choice value="shoes"/>' in ran.out
        tasks = json.loads((folder / "check.json").read_text())
        chosen = tasks[0]["predictions"][0]["result"][0]
        assert chosen["value"]["choices"][0] in LABELS.split(",")
        back = [{**task["data"], "label": "toys", "annotator": 1} for task in tasks]  # its JSON-MIN
        (folder / "check.json").write_text(json.dumps(back))
    elif suffix == ".csv":
        text = (folder / "check.csv").read_text("utf-8-sig")
        assert text.startswith("key,id,title,suggestion 1,suggestion 2,suggestion 3,label")
        text = re.sub(",\r?\n", ",toys\n", text)
        (folder / "check.csv").write_text(text)
    else:
        book = openpyxl.load_workbook(folder / "check.xlsx")
        sheet = book["predictions"]
        assert sheet.data_validations.dataValidation[0].formula1 == "categories!$A$1:$A$6"
        for row in range(2, sheet.max_row + 1):
            sheet.cell(row, sheet.max_column, "toys")
        book.save(folder / "check.xlsx")
    ran = llmcat("apply", "out.csv", "--corrections", f"check{suffix}", "--labels", LABELS,
                 "-o", "final.csv")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "196 not looked at" in ran.err


def test_an_export_is_written_as_the_predictions_are(tmp_path: Path, llmcat: Cli) -> None:
    """With their separator; a title that a spreadsheet would run is text."""
    (tmp_path / "a.csv").write_text("id;title\n1;=1+1 shoes\n2;bags\n")
    assert llmcat("classify", "a.csv", "--labels", LABELS, "--engine", "fake",
                  "--out", "o.csv").code == 0  # fmt: skip
    ran = llmcat("review", "o.csv", "--labels", LABELS, "--export", "c.csv")
    assert ran.code == 0, ran.err
    lines = (tmp_path / "c.csv").read_text("utf-8-sig").splitlines()
    assert lines[0].startswith("key;id;title;suggestion 1")
    assert any(";1;'=1+1 shoes;" in line for line in lines)


def test_what_got_none_is_grouped(tmp_path: Path, llmcat: Cli) -> None:
    """Items alike are a category to think about; a lone one is not."""
    titles = ["garden hose 20 m", "garden hose reel", "flexible garden hose", "steel whisk",
              "red shoes"]  # fmt: skip
    rows = [f"{n},{t},,,none,0.5,,\n" for n, t in enumerate(titles[:-1])]
    rows.append(f"9,{titles[-1]},shoes,shoes,labelled,0.9,,\n")
    header = "id,title,label,path,decision,confidence,others,reason\n"
    (tmp_path / "o.csv").write_text(header + "".join(rows))
    ran = llmcat("review", "o.csv", "--labels", LABELS, "--groups", "p.yaml")
    assert ran.code == 0, ran.err
    assert "1 groups of 3 items" in ran.err
    (proposed,) = yaml.safe_load((tmp_path / "p.yaml").read_text())["labels"]
    assert {"garden", "hose"} <= set(proposed["name"].split())
    assert "garden hose 20 m" in proposed["description"]


def test_a_page_elsewhere_gets_nothing(predictions: Path) -> None:
    """Not under another name of this machine, and no post without our header."""
    served = Served(predictions)

    def status(path: str, data: bytes | None = None, **headers: str) -> int:
        asked = urllib.request.Request(served.url + path, data, headers)  # noqa: S310  loopback
        try:
            with urllib.request.urlopen(asked) as reply:  # noqa: S310
                return int(reply.status)
        except urllib.error.HTTPError as exc:
            return exc.code

    body = json.dumps({"who": "x"}).encode()
    assert status("") == 200
    assert status("", Host="evil.example") == 403
    assert status("next", body) == 403
    assert status("next", body, **{"X-Llmcat": "1"}) == 200
    for wrong in ({"who": ""}, {"who": "x", "key": "nope", "label": "shoes"},
                  {"who": "x", "key": "nope", "label": "no such"}):  # fmt: skip
        sent = json.dumps(wrong).encode()
        assert status("label", sent, **{"X-Llmcat": "1"}) == 400
    assert status("next", b"{", **{"X-Llmcat": "1"}) == 400
    served.stop()


def entry(n: int, label: str, sure: float, alone: str = "") -> Entry:
    said = {"label": label, "confidence": sure, "alone": alone or label, "menu": []}
    return Entry(f"{n:016x}", str(n), {"title": f"t{n}"}, said)


def test_the_order_of_the_queue() -> None:
    """The least sure, where sources disagree, categories with few labels, or a random sample."""
    items = [entry(0, "a", 0.9), entry(1, "b", 0.2), entry(2, "a", 0.5, "b"), entry(3, "c", 0.7)]
    counts = {"a": 9, "b": 5}

    def order(name: str) -> list[str]:
        return [e.id for e in in_order(items, name, counts=counts)]

    assert order("unsure") == ["1", "2", "3", "0"]
    assert order("disagree")[0] == "2"
    assert order("cold") == ["3", "1", "2", "0"]
    assert sorted(order("random")) == ["0", "1", "2", "3"]
    shares = [twice(f"{n:016x}", 0.1) for n in range(5000)]
    assert 0.08 < sum(shares) / 5000 < 0.12


def test_agreement_is_that_of_scikit_learn() -> None:
    """Cohen's kappa over what two people have both labelled."""
    from sklearn.metrics import cohen_kappa_score

    a, b = "a b a a c b".split(), "a b b a c a".split()
    words = [Label(str(i), x, "person", by=who) for i, pair in enumerate(zip(a, b, strict=True))
             for x, who in zip(pair, ("anna", "ben"), strict=True)]  # fmt: skip
    found = kappa(words)
    assert found is not None
    assert found["kappa"] == pytest.approx(cohen_kappa_score(a, b), abs=1e-4)
    assert (found["items"], found["agreed"]) == (6, 0.6667)
    assert kappa(words[:1]) is None


def test_what_the_store_has_is_not_asked_again(tmp_path: Path) -> None:
    """A share goes to two people; what came before a crash counts; other files are refused."""
    items = [entry(n, "a", 0.5) for n in range(40)]
    with LabelStore(tmp_path / "l.sqlite") as store:
        store.add([Label(items[0].key, "b", "person", by="anna")])
        queue = Queue(tmp_path / "q.sqlite", store, "t")
        assert queue.fill(items, share=0.5, source="s") == 40
        needs = [twice(e.key, 0.5) for e in items]
        got = {who: [] for who in ("anna", "ben")}  # type: ignore[var-annotated]
        for who, keys in got.items():
            while (item := queue.next(who)) is not None:
                keys.append(item["key"])
                queue.label(who, item["key"], "a")
        assert items[0].key not in got["anna"]
        assert sorted([*got["anna"], items[0].key]) == sorted(e.key for e in items)
        assert sorted(got["ben"]) == sorted(
            e.key for e, two in zip(items, needs, strict=True) if two
        )
        assert queue.progress()["done"] == 40
        queue.close()
        with pytest.raises(Exception, match="the queue of other predictions"):
            Queue(tmp_path / "q.sqlite", store, "t").fill(items, share=0.5, source="other")


def test_rows_without_their_text_need_the_items(predictions: Path, llmcat: Cli) -> None:
    """JSON lines hold no titles; other items are refused."""
    assert llmcat("classify", "items.jsonl", "--labels", LABELS, "--engine", "fake",
                  "--out", "o.jsonl").code == 0  # fmt: skip
    flags = ("review", "o.jsonl", "--labels", LABELS, "--static", "p.html")
    ran = llmcat(*flags)
    assert (ran.code, "--items FILE" in ran.err) == (2, True)
    assert llmcat(*flags, "--items", "items.jsonl").code == 0
    ran = llmcat(*flags, "--items", "items.jsonl")
    assert (ran.code, "p.html is there already" in ran.err) == (2, True)
    flags = (*flags, "--replace")
    rows = read_rows(predictions.parent / "items.jsonl")[::-1]
    (predictions.parent / "other.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    ran = llmcat(*flags, "--items", "other.jsonl")
    assert (ran.code, "row 1 is not the item" in ran.err) == (2, True)
