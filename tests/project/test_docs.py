"""README and docs say what the code does: blocks run, commands are documented, links work."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from scripts.cli_reference import COMMAND, VERBS, reference
from tests.kit.datasets.class_folders import class_folders
from tests.kit.datasets.coco_files import orchard_folder, quarrels_folder
from tests.kit.datasets.cvat_files import cvat_folder
from tests.kit.datasets.labelme_files import labelme_folder
from tests.kit.datasets.own_folder import messy_folder, tidy_folder
from tests.kit.datasets.yolo_files import bugs_folder
from tests.kit.processes.warm_python import warm_python

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

pytestmark = pytest.mark.filterwarnings("ignore")  # of Lightning and torch, not of ours


def blocks(language: str) -> list[str]:
    pattern = re.compile(rf"```{language}\n(.*?)```", re.DOTALL)
    return [block for page in PAGES for block in pattern.findall(page.read_text())]


@pytest.fixture
def reader_s_folder(
    mini_archive: Path, mini_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The folder of a reader: an archive with the official name, a dataset, and own pictures."""
    shutil.copy(mini_archive, tmp_path / "VOCtrainval_11-May-2012.tar")
    shutil.copytree(mini_dataset, tmp_path / "voc2012")
    tidy_folder(tmp_path / "foxes")
    messy_folder(tmp_path / "messy")
    bugs_folder(tmp_path / "bugs")
    labelme_folder(tmp_path / "leaves")
    cvat_folder(tmp_path / "plates")
    class_folders(tmp_path / "pets")
    orchard_folder(tmp_path / "orchard")
    quarrels_folder(tmp_path / "quarrels")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_block(source: str) -> None:
    # a file, as a reader would have it: workers and pickled functions need a real module
    script = Path("block.py")
    script.write_text(source)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([warm_python(), str(script)], env=environment, check=True)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute and a half of a core, which tests share
def test_python_blocks_run(reader_s_folder: Path) -> None:
    assert len(blocks("python")) >= 3
    for block in blocks("python"):
        run_block(block)


def masked(text: str) -> str:
    """Remove from an output what depends on the machine and the archive."""
    text = re.sub(r'"fingerprint": "[^"]*"', '"fingerprint": "…"', text)
    return re.sub(r"\d+(\.\d+)?( [KM]iB)?", "N", text).strip()


@pytest.mark.slow
def test_console_blocks_print_what_they_show(reader_s_folder: Path) -> None:
    shutil.rmtree("voc2012")
    commands = 0
    for block in blocks("console"):
        for command, shown in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE):
            words = [warm_python(), "-m", "shard_tool.cli.app", *shlex.split(command)[1:]]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            assert masked(done.stdout) == masked(shown), command
            commands += 1
    assert commands >= 3


@pytest.mark.slow
def test_the_command_reference_is_what_help_prints() -> None:
    """Write it again with `python scripts/cli_reference.py > docs/reference/cli.md`."""
    assert (ROOT / "docs/reference/cli.md").read_text() == reference()


def test_every_command_is_in_the_reference_and_has_help() -> None:
    page = (ROOT / "docs/reference/cli.md").read_text()
    assert VERBS
    for verb in VERBS:
        assert f"## {verb}\n" in page
        assert COMMAND.get_command(typer.Context(COMMAND), verb).help


def test_links_and_named_files_exist() -> None:
    for page in PAGES:
        text = page.read_text()
        for link in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
        for name in re.findall(r"`((?:tests|scripts|docs|configs)/[\w./-]+)`", text):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_the_glossary_has_every_term_of_the_architecture() -> None:
    glossary = (ROOT / "docs/glossary.md").read_text()
    for term in ("lane", "window", "cursor", "position", "slot", "manifest", "fingerprint"):
        assert f"| {term}" in glossary
