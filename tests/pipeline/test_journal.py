"""The predictions file as journal: resume after kill -9, torn tails, other people's files."""

from __future__ import annotations

import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from backports import zstd
from helpers import Ran, read_rows

from llmcat.errors import JournalError, RunMismatch
from llmcat.pipeline.journal import Journal

Cli = Callable[..., Ran]


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """Two thousand items: bad rows and duplicates among them."""
    path = tmp_path / "items.jsonl"
    lines = []
    for i in range(2000):
        title = "" if i % 97 == 0 else f"red shoes {i % 1500}"
        lines.append(json.dumps({"id": f"{i:05}", "title": title}))
    path.write_text("\n".join(lines) + "\n")
    return path


FAKE = ("--labels", "shoes,bags,toys", "--engine", "fake", "--engine-option", "latency=0.02")


def command(items: Path, out: Path) -> list[str]:
    flags = ["classify", "--file", str(items), "--out", str(out), *FAKE]
    return [sys.executable, "-m", "llmcat", *flags]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_kill_9_and_resume_gives_the_same_bytes(
    items: Path, tmp_path: Path, llmcat: Cli, suffix: str
) -> None:
    """However often it is killed, the finished file is that of an unbroken run."""
    whole, broken = tmp_path / f"whole{suffix}", tmp_path / f"broken{suffix}"
    assert llmcat("classify", "--file", items, "--out", whole, *FAKE).code == 1
    draw = random.Random(3)
    kills = 0
    for _ in range(30):
        process = subprocess.Popen(
            command(items, broken), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(draw.uniform(0.35, 0.9))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
            if kills >= 4:
                break
        else:
            break
    last = llmcat(*command(items, broken)[3:])
    assert last.code in {0, 1}
    assert kills
    assert broken.read_bytes() == whole.read_bytes()
    record = json.loads(Path(f"{broken}.run.json").read_text())
    assert record["status"] == "done"
    assert sum(record["sessions"][-1]["decisions"].values()) == 2000
    assert not list(tmp_path.glob("*.journal.jsonl"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_writes_what_is_in_flight_and_says_how_to_go_on(
    items: Path, tmp_path: Path, llmcat: Cli, number: signal.Signals
) -> None:
    """Exit 130, the command that goes on, and it does."""
    out = tmp_path / "o.jsonl"
    slow = [*command(items, out), "--engine-option", "latency=0.02"]
    process = subprocess.Popen(slow, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "this goes on:" in err
    assert f"--out {out}" in err
    before = out.read_bytes()
    assert 0 < before.count(b"\n") < 2000
    assert llmcat(*slow[3:]).code == 1
    assert out.read_bytes().startswith(before)
    assert [r["row"] for r in read_rows(out)] == list(range(2000))


def test_a_torn_tail_is_cut(items: Path, tmp_path: Path, llmcat: Cli) -> None:
    """Half a line, or a line that is no row, is asked again."""
    out, whole = tmp_path / "o.jsonl", tmp_path / "w.jsonl"
    for path in (out, whole):
        llmcat("classify", "--file", items, "--out", path, *FAKE)
    data = out.read_bytes()
    out.write_bytes(data[: len(data) // 2])
    record = Path(f"{out}.run.json")
    record.write_text(record.read_text().replace('"done"', '"failed"'))
    llmcat("classify", "--file", items, "--out", out, *FAKE)
    assert out.read_bytes() == whole.read_bytes()


def test_reasons_survive_a_resume(items: Path, tmp_path: Path, llmcat: Cli) -> None:
    """Duplicates of a row that was written before get its reasons too."""
    out, whole = tmp_path / "o.jsonl", tmp_path / "w.jsonl"
    for path in (out, whole):
        llmcat("classify", "--file", items, "--out", path, *FAKE, "--prompt", "reason")
    data = out.read_bytes()
    out.write_bytes(data[: int(len(data) * 0.8)])  # titles come again after row 1,500
    record = Path(f"{out}.run.json")
    record.write_text(record.read_text().replace('"done"', '"failed"'))
    llmcat("classify", "--file", items, "--out", out, *FAKE, "--prompt", "reason")
    assert out.read_bytes() == whole.read_bytes()
    assert "its words are those of" in read_rows(out)[-1]["reason"]


def test_a_finished_run_is_left_alone(items: Path, tmp_path: Path, llmcat: Cli) -> None:
    """Running it again asks nothing; the exit code is that of its rows; --restart starts over."""
    out = tmp_path / "o.jsonl"
    first = llmcat("classify", "--file", items, "--out", out, *FAKE)
    before = out.stat().st_mtime_ns
    again = llmcat("classify", "--file", items, "--out", out, *FAKE)
    assert (first.code, again.code) == (1, 1)
    assert "nothing to do" in again.err
    assert out.stat().st_mtime_ns == before
    llmcat("classify", "--file", items, "--out", out, *FAKE, "--restart")
    assert out.stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--labels", "shoes,bags"), "taxonomy"),
        (("--prompt", "zero-shot.zh"), "prompt"),
        (("--mass-sample", "8"), "mass_sample"),
        (("--constraint", "tokens"), "constraint"),
        (("--about", "things"), "about"),
        (("--limit", "10"), "limit"),
        (("--text", "title"), "columns"),
        (("--menu-size", "5"), "menu_size"),
    ],
)
def test_another_setting_is_refused_by_name(
    tmp_path: Path, llmcat: Cli, flags: tuple[str, ...], named: str
) -> None:
    """The error names what differs; the file is not touched."""
    (tmp_path / "i.txt").write_text("red shoes\n")
    out = tmp_path / "o.jsonl"
    base = ("classify", "--file", "i.txt", "--out", out, *FAKE)
    assert llmcat(*base).code == 0
    before = out.read_bytes()
    ran = llmcat(*base, *flags)
    assert ran.code == 2
    assert f"{named}: " in ran.err
    assert "--restart" in ran.err
    assert out.read_bytes() == before
    (tmp_path / "i.txt").write_text("blue shoes\n")
    ran = llmcat(*base)
    assert ran.code == 2
    assert "input: " in ran.err


def test_a_run_without_a_row_binds_nobody(tmp_path: Path, llmcat: Cli) -> None:
    """After a first try with a wrong column, the right one just works."""
    (tmp_path / "i.csv").write_text("sku,product\n1,red shoes\n")
    flags = ("classify", "--file", "i.csv", *FAKE)
    ran = llmcat(*flags)
    assert (ran.code, "its columns: sku, product" in ran.err) == (2, True)
    assert not (tmp_path / "i.predictions.jsonl").exists()
    ran = llmcat(*flags, "--text", "product", "--id", "sku")
    assert ran.code == 0
    out = tmp_path / "i.predictions.jsonl"
    assert read_rows(out)[0]["id"] == "1"
    out.write_text("")
    record = Path(f"{out}.run.json")
    record.write_text(record.read_text().replace('"done"', '"failed"'))
    assert llmcat(*flags, "--text", "product").code == 0


def test_a_file_of_somebody_else_is_not_overwritten(tmp_path: Path, llmcat: Cli) -> None:
    """Neither a foreign file nor the input itself."""
    (tmp_path / "i.jsonl").write_text('{"title": "x"}\n')
    (tmp_path / "mine.jsonl").write_text("precious\n")
    for out in ("mine.jsonl", "i.jsonl"):
        ran = llmcat("classify", "--file", "i.jsonl", "--out", out, *FAKE)
        assert ran.code == 2
    ran = llmcat("classify", "--file", "i.jsonl", "--out", "i.jsonl", *FAKE, "--restart")
    assert ran.code == 2
    assert (tmp_path / "mine.jsonl").read_text() == "precious\n"
    assert (tmp_path / "i.jsonl").read_text() == '{"title": "x"}\n'


def test_two_processes_cannot_write_one_file(tmp_path: Path) -> None:
    """The second is told so."""
    out = str(tmp_path / "o.jsonl")
    journal = Journal.open(out, {"a": "1"}, {}, restart=False)
    with pytest.raises(JournalError, match="another llmcat"):
        Journal.open(out, {"a": "1"}, {}, restart=False)
    journal.append([{"row": 0}])
    journal.end_session({}, status="interrupted")
    with pytest.raises(RunMismatch, match="a: 1 then, 2 now"):
        Journal.open(out, {"a": "2"}, {}, restart=False)
    journal = Journal.open(out, {"a": "1"}, {}, restart=False)
    assert journal.done == 1
    journal.end_session({}, status="done")


def test_a_journal_changed_by_hand_is_refused(tmp_path: Path) -> None:
    """Rows out of their order are not a torn tail."""
    out = tmp_path / "o.jsonl"
    Journal.open(str(out), {}, {}, restart=False).end_session({}, status="interrupted")
    for text, what in (('{"row": 1}\n', "line 1 holds row 1"),
                       ('{"row": 0}\nnonsense\n{"row": 2}\n', "line 2 is no row")):  # fmt: skip
        out.write_text(text)
        with pytest.raises(JournalError, match=what):
            Journal.open(str(out), {}, {}, restart=False)
        assert out.read_text() == text


def test_a_finished_output_that_was_changed_is_not_cut(tmp_path: Path, llmcat: Cli) -> None:
    """Nothing is asked again, and nothing thrown away, without being told to."""
    (tmp_path / "i.txt").write_text("red shoes\nblue bags\n")
    for suffix in (".jsonl", ".csv"):
        flags = ("classify", "--file", "i.txt", "--out", f"o{suffix}", *FAKE)
        assert llmcat(*flags).code == 0
        out = tmp_path / f"o{suffix}"
        out.write_text("edited\n" + out.read_text())
        changed = out.read_text()
        ran = llmcat(*flags)
        assert (ran.code, "was changed" in ran.err) == (2, True)
        assert out.read_text() == changed
        assert llmcat(*flags, "--restart").code == 0
        assert "edited" not in out.read_text()


def test_no_room_left_is_one_line(items: Path, tmp_path: Path) -> None:
    """Writing fails in the middle: said with what to do; with room again the run goes on."""
    out = tmp_path / "o.jsonl"
    limited = ["bash", "-c", 'ulimit -f 64; exec "$@"', "-", *command(items, out)]
    ran = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert "File too large" in ran.stderr
    assert "make room" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert subprocess.run(command(items, out), capture_output=True, check=False).returncode == 1
    assert [r["row"] for r in read_rows(out)] == list(range(2000))


def test_an_output_that_cannot_be_written(tmp_path: Path, llmcat: Cli) -> None:
    """Found out before anything is asked."""
    (tmp_path / "i.txt").write_text("red shoes\n")
    ran = llmcat("classify", "--file", "i.txt", "--out", "no/such/folder/o.jsonl", *FAKE)
    assert (ran.code, "no such folder" in ran.err) == (2, True)
    (tmp_path / "d.jsonl").mkdir()
    ran = llmcat("classify", "--file", "i.txt", "--out", "d.jsonl", *FAKE)
    assert (ran.code, "not a regular file" in ran.err) == (2, True)
    ran = llmcat("classify", "--file", "i.txt", "--out", "o.doc", *FAKE)
    assert (ran.code, ".jsonl, .csv, .tsv" in ran.err) == (2, True)
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        ran = llmcat("classify", "--file", "i.txt", "--out", "locked/o.jsonl", *FAKE)
        assert (ran.code, "Permission" in ran.err) == (2, True)


def outputs(folder: Path) -> dict[str, list[str]]:
    """The ids in each file of a predictions folder."""
    found = {}
    for path in sorted(folder.rglob("*.predictions.*")):
        frame = pd.read_parquet(path)
        found[str(path.relative_to(folder))] = frame["id"].tolist()
    return found


def test_a_folder_gets_one_file_per_input(tmp_path: Path, llmcat: Cli) -> None:
    """Laid out as the inputs are; killed and resumed as a single file is; left alone when done."""
    for name, count in (("in/a/x", 3), ("in/b/x", 500), ("in/y", 2)):
        path = tmp_path / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = (json.dumps({"id": f"{name}-{i}", "title": f"bag {i}"}) for i in range(count))
        path.write_text("\n".join(rows))
    flags = ("--file", "in/**/*.jsonl", "--out", "out/", "--out-format", "parquet", *FAKE)
    process = subprocess.Popen(
        [sys.executable, "-m", "llmcat", "classify", *flags],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    journal = tmp_path / "out" / "journal.jsonl"
    while not journal.exists() or journal.read_bytes().count(b"\n") < 50:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not outputs(tmp_path / "out")
    assert llmcat("classify", *flags, "--restart", "--limit", "4").code == 0
    assert outputs(tmp_path / "out")["a/x.predictions.parquet"] == [f"in/a/x-{i}" for i in range(3)]
    assert llmcat("classify", *flags, "--limit", "4", "--out-format", "csv").code == 2
    ran = llmcat("classify", *flags, "--restart")
    assert ran.code == 0, ran.err
    assert outputs(tmp_path / "out") == {
        "a/x.predictions.parquet": [f"in/a/x-{i}" for i in range(3)],
        "b/x.predictions.parquet": [f"in/b/x-{i}" for i in range(500)],
        "y.predictions.parquet": [f"in/y-{i}" for i in range(2)],
    }
    assert not journal.exists()
    assert "nothing to do" in llmcat("classify", *flags).err
    (tmp_path / "out" / "y.predictions.parquet").unlink()
    assert "changed or removed" in llmcat("classify", *flags).err
    assert llmcat("classify", *flags, "--restart").code == 0
    assert len(outputs(tmp_path / "out")) == 3
    (tmp_path / "out").rename(tmp_path / "moved")  # what it made is named from the folder
    moved = [*flags[:3], "moved/", *flags[4:]]
    assert "nothing to do" in llmcat("classify", *moved).err


def test_a_run_never_reads_what_it_writes(tmp_path: Path, llmcat: Cli) -> None:
    """A folder or pattern that also fits the output, once and again."""
    (tmp_path / "a.jsonl").write_text('{"title":"bag"}\n')
    (tmp_path / "b.csv").write_text("title\nshoe\n")
    for flags in (("--file", "**/*.jsonl", "--out", "out/"), ("--file", ".")):
        first, again = (llmcat("classify", *flags, *FAKE) for _ in range(2))
        assert first.code == 0, first.err
        assert "nothing to do" in again.err


def test_outputs_stay_in_their_folder(tmp_path: Path, llmcat: Cli) -> None:
    """Wherever the inputs lie; one file named in two ways is found out."""
    (tmp_path / "here").mkdir()
    (tmp_path / "other").mkdir()
    for name in ("here/a", "other/z"):
        (tmp_path / f"{name}.jsonl").write_text('{"title":"bag"}\n')
    files = ("--file", "here/a.jsonl", "here/../other/z.jsonl")
    assert llmcat("classify", *files, "--out", "out/", *FAKE).code == 0
    made = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.predictions.jsonl")}
    assert made == {"out/here/a.predictions.jsonl", "out/other/z.predictions.jsonl"}


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path, llmcat: Cli) -> None:
    """Nor one whose outputs would fall together."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    (tmp_path / "a.csv").write_text("title\nbag\n")
    (tmp_path / "a.jsonl").write_text('{"title":"bag"}\n')
    ran = llmcat("classify", "--file", "a.csv", "--out", "mine", *FAKE)
    assert (ran.code, "not empty" in ran.err) == (2, True)
    ran = llmcat("classify", "--file", "a.csv", "a.jsonl", "--out", "new/", *FAKE)
    assert (ran.code, "too" in ran.err) == (2, True)
    ran = llmcat("classify", "--file", "a.csv", "--out", "no/where/", *FAKE)
    assert (ran.code, "no such folder" in ran.err) == (2, True)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl.zst", ".tsv.zst", ".jsonl.gz"])
def test_every_format_holds_the_same_rows(
    items: Path, tmp_path: Path, llmcat: Cli, suffix: str
) -> None:
    """The rows of the plain file, with the types that the format has."""
    for out in ("plain.jsonl", f"packed{suffix}"):
        flags = ("--limit", "99", "--keep", "none")
        assert llmcat("classify", "--file", items, "--out", out, *FAKE, *flags).code == 1
    plain = read_rows(tmp_path / "plain.jsonl")
    path = tmp_path / f"packed{suffix}"
    if suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
        assert [{"gold": None, "set": None, **row} for row in plain] == rows
        return
    raw = path.read_bytes()
    text = (gzip if suffix.endswith("gz") else zstd).decompress(raw).decode()
    if "jsonl" in suffix:
        assert [json.loads(line) for line in text.splitlines()] == plain
    else:
        assert [line.split("\t")[1] for line in text.splitlines()[1:]] == [r["id"] for r in plain]
