"""Verbs of `shard-tool` that installed packages declare; each test installs tiny packages."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING

import pytest

from shard_tool.cli.plugins import OURS
from tests.kit.datasets.converted import manifest_of
from tests.kit.processes.shard_tool_process import shard_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Install = Callable[..., None]
    Run = Callable[..., tuple[str | int | None, str, str]]

COUNT = '''
from shard_tool.cli.options import Dest, Format, FormatOption, print_json, storage_options
from shard_tool.errors import ManifestError, OptionError
from shard_tool.storage.location import Folder
from shard_tool.storage.manifest_file import load_manifest

def count(
    dest: Dest, times: int = 1, format_: FormatOption = Format.text, storage_option: list[str] = []
) -> None:
    """Count samples."""
    if times < 1:
        raise OptionError("--times", f"{times} is below 1")
    manifest = load_manifest(Folder(dest, storage_options(storage_option)))
    if times > 9:
        raise ManifestError(dest, "has too few samples", "count less often")
    print_json({"samples": times * manifest.num_samples})
'''
VERBS = ["convert", "verify", "info", "download", "copy", "index", "export", *OURS]
VOID = '''
def void() -> None:
    """Do nothing."""
'''


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package that declares verbs, for this process and those it starts."""
    site = tmp_path / "site"
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{path}")
    monkeypatch.syspath_prepend(site)
    before = {*sys.modules}

    def install(package: str, code: str, **verbs: str) -> None:
        module = package.replace("-", "_")
        metadata = site / f"{module}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (site / f"{module}.py").write_text(code)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n"
        )
        lines = [f"{verb} = {module}:{function}" for verb, function in verbs.items()]
        group = "\n".join(["[voc_shards.commands]", *lines]) if verbs else ""
        (metadata / "entry_points.txt").write_text(f"{group}\n")

    yield install
    for code in site.glob("*.py"):
        if code.stem not in before:
            sys.modules.pop(code.stem, None)


def listed(text: str) -> list[str]:
    return re.findall(r"^  (\w+)  +[A-Z]", text.partition("Commands:")[2], re.MULTILINE)


@pytest.mark.slow
def test_a_package_adds_a_verb_that_runs_like_the_others(
    install: Install, mini_dataset: Path
) -> None:
    install("my-verbs", COUNT, count="count")
    overview = shard_tool("--help")
    assert (overview.returncode, overview.stderr) == (0, "")
    assert listed(overview.stdout) == [*VERBS, "count"]
    text = shard_tool("count", "-h").stdout
    assert text.startswith("Usage: shard-tool count [OPTIONS] {DEST}\n\n  Count samples.\n")
    done = shard_tool("count", mini_dataset, "--times", 2)
    assert (done.returncode, done.stderr) == (0, "")
    samples = sum(split["num_samples"] for split in manifest_of(mini_dataset)["splits"].values())
    assert json.loads(done.stdout) == {"samples": 2 * samples}


def test_errors_of_a_verb_are_printed_with_their_hint(
    install: Install, run_here: Run, mini_dataset: Path
) -> None:
    install("my-verbs", COUNT, count="count")
    assert run_here("count", mini_dataset, "--times", 0) == (
        2,
        "",
        "error: --times: 0 is below 1\n",
    )
    expected = f"error: {mini_dataset}: has too few samples\n\nhint: count less often\n"
    assert run_here("count", mini_dataset, "--times", 10) == (1, "", expected)


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("import nosuch", "ModuleNotFoundError: No module named 'nosuch'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("count = 3", "TypeError: "),
        ("", "AttributeError: module 'broken' has no attribute 'count'"),
    ],
)
def test_a_broken_package_breaks_its_own_verb_alone(
    install: Install, run_here: Run, mini_dataset: Path, code: str, cause: str
) -> None:
    install("broken", code, count="count")
    install("sound", VOID, void="void")
    status, text, told = run_here("--help")
    assert (status, listed(text)) == (0, [*VERBS, "void"])
    problem = f"count: cannot be loaded from package broken ({cause}"
    assert told.startswith(f"warning: {problem}")
    assert told.endswith("; repair broken or uninstall it\n")
    status, text, told = run_here("count")
    assert (status, text) == (1, "")
    assert told.startswith(f"error: {problem}")
    for command in (["void"], ["info", mini_dataset], ["plan", mini_dataset]):
        status, _, told = run_here(*command)
        assert (status, told) == (0, "")


def test_a_verb_that_two_packages_declare_is_an_error(install: Install, run_here: Run) -> None:
    for package in ("one", "two"):
        install(package, VOID, void="void")
    told = "void: packages one and two declare this verb"
    status, text, warning = run_here("--help")
    assert (status, listed(text)) == (0, VERBS)
    assert warning == f"warning: {told}; uninstall all of them but one\n"
    expected = f"error: {told}\n\nhint: uninstall all of them but one\n"
    assert run_here("void") == (1, "", expected)


def test_no_package_replaces_a_verb_of_ours(
    install: Install, run_here: Run, mini_dataset: Path
) -> None:
    plan, info = run_here("plan", mini_dataset), run_here("info", mini_dataset)
    install("rival", VOID, info="void", plan="void")
    told = "warning: {}: is a verb of voc-shards; the one of package rival is ignored\n"
    _, text, warnings = run_here("--help")
    assert (listed(text), warnings) == (VERBS, told.format("plan") + told.format("info"))
    assert run_here("plan", mini_dataset) == (*plan[:2], told.format("plan"))
    assert run_here("info", mini_dataset) == info


def test_an_installation_older_than_the_code_is_told_to_install_again(
    install: Install, run_here: Run
) -> None:
    install("voc-shards", "")  # found before the real one
    told = "the installation of voc-shards is older than its code and does not declare it"
    way = "install it again: in a checkout, `pip install -e .`"
    assert run_here("plan", "voc") == (1, "", f"error: plan: {told}\n\nhint: {way}\n")
    _, text, warnings = run_here("--help")
    assert listed(text) == [verb for verb in VERBS if verb not in OURS]
    assert warnings == "".join(f"warning: {verb}: {told}; {way}\n" for verb in OURS)


def test_other_verbs_do_not_import_a_package(
    install: Install, run_here: Run, mini_dataset: Path
) -> None:
    install("my-verbs", f"import sys\nsys.stderr.write('imported')\n{VOID}", void="void")
    for verb in ("info", "plan"):
        assert run_here(verb, mini_dataset)[::2] == (0, "")
    assert run_here("--help")[2] == "imported"


def test_a_mistyped_verb_of_a_package_is_suggested(install: Install, run_here: Run) -> None:
    install("my-verbs", VOID, void="void")
    for typo, verb in (("voidd", "void"), ("plann", "plan")):
        status, _, told = run_here(typo)
        assert (status, f"Did you mean '{verb}'?" in told) == (2, True)
