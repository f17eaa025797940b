"""README and documentation: tables are not stale, links lead somewhere, commands and names exist."""

import ast
import re
import shlex
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from spiking_vq.config.load import load_config
from stages.__main__ import COMMANDS
from stages.cli.options import CONFIGS, read_options
from stages.compare.documents import MARKED, TABLES, rendered

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = {"norse", "spikingjelly", "sinabs"}
"""Packages of examples that the tests do without."""

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)


def blocks(text, language=""):
    """Contents of the fenced code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(text):
    """Lines of code blocks and inline code that begin with `make` or `spiking-vq`, without comments."""
    lines = [line for block in blocks(text) for line in block.splitlines()]
    lines += re.findall(r"`((?:make|spiking-vq) [^`]+)`", text)
    words = [shlex.split(line, comments=True) for line in lines if re.match(r"(make|spiking-vq) [a-z]", line)]
    assert all(words)
    return words


def anchors(text):
    """Names of the headings, as GitHub and MkDocs make them."""
    return {
        re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)$", text, re.M)
    }


@each_document
def test_tables_are_those_of_the_reports(path):
    text = path.read_text()
    assert rendered(text, ROOT / "results") == text, "make docs-figures renders them"


def test_a_changed_number_is_stale():
    text = (ROOT / "README.md").read_text()
    changed = re.sub(r"\*\*(\d)", r"**9\1", text, count=1)
    assert changed != text
    assert rendered(changed, ROOT / "results") == text


def test_every_table_stands_in_a_document():
    used = {match[1].split()[0] for path in DOCUMENTS for match in MARKED.findall(path.read_text())}
    assert used == set(TABLES)


def test_readme_fits_three_screens():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@each_document
def test_links_and_pictures_exist(path):
    text = path.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.is_file(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(file.read_text()), f"{path.name} links to {target}"


@each_document
def test_commands_exist(path):
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for program, *words in commands(path.read_text()):
        if program == "make":
            assert words[0] in targets, words
            assert all("=" in word for word in words[1:]), words
            continue
        name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
        rest = [word for word in words[len(name.split()) :] if word not in ("--help", "-h")]
        if name == "train":
            stage, *overrides = rest
            load_config(stage, CONFIGS / stage / "base.yaml", overrides)
        else:
            read_options(import_module(COMMANDS[name]).Options, rest)


@each_document
def test_python_examples_import_what_exists(path):
    for block in blocks(path.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                package = (node.names[0].name if isinstance(node, ast.Import) else node.module).split(".")[0]
                if package in OTHERS and find_spec(package) is None:
                    continue
                exec(compile(ast.Module([node], []), str(path), "exec"), {})
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "spiking_vq":
                assert hasattr(import_module("spiking_vq"), node.attr)


@each_document
def test_modules_named_in_the_text_exist(path):
    for name in re.findall(r"`((?:spiking_vq|stages|configs|tests)/[\w/]+\.\w+)`", path.read_text()):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"`(spiking_vq(?:\.\w+)+)", path.read_text()):
        module, _, attribute = name.rpartition(".")
        try:
            import_module(name)
        except ModuleNotFoundError:
            assert hasattr(import_module(module), attribute), name
