"""The installed wheel works, by itself, without extras."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", out, ROOT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return out


def test_what_is_in_the_wheel(dist: Path) -> None:
    """Prompts, examples, profiles and the licence; no tests, no evaluation, no model."""
    (wheel,) = dist.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for part in (
        "llmcat/_prompts/zero-shot.en.v1.jinja",
        "llmcat/_examples/items.jsonl",
        "llmcat_serve/profiles/cpu.toml",
        "llmcat/py.typed",
        "licenses/LICENSE",
    ):
        assert any(name.endswith(part) for name in names), part
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"llmcat", "llmcat_serve"}
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        assert any(n.endswith("prompts/zero-shot.en.v1.jinja") for n in packed.getnames())


def test_the_wheel_in_an_empty_environment(dist: Path, tmp_path: Path) -> None:
    """Help, prompts, a classification, a server's command line: all from the installed files."""
    (wheel,) = dist.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "v"], check=True)
    pip = [tmp_path / "v/bin/python", "-m", "pip", "install", "--quiet", wheel]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

    def run(*args: str, stdin: str = "") -> str:
        ran = subprocess.run([tmp_path / "v/bin/llmcat", *args], input=stdin, cwd=tmp_path,
                             capture_output=True, text=True, check=False)  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert "commands:" in run("--help")
    assert "zero-shot.en@1" in run("prompts", "list")
    line = run("classify", "--labels", "shoes,bags", "--engine", "fake", stdin="red shoes")
    assert '"label":"shoes"' in line
    run("init", "shop")
    assert (tmp_path / "shop" / "taxonomy.yaml").exists()
    assert "api_server" in run("serve", "model", "--model", "m", "--profile", "cpu", "--print")
