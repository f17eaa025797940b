"""A hook of MkDocs: the pictures in `results/`, which pages show as `../results/...`, become files of the site."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pictures under `pictures/`."""
    for path in sorted((ROOT / "results").rglob("*.png")):
        name = f"pictures/{path.relative_to(ROOT / 'results').as_posix()}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Point the pages at them."""
    return markdown.replace("](../results/", "](pictures/")
