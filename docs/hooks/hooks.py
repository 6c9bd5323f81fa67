"""What mkdocs calls while it builds the site: pages of methods and notebooks are made, not committed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import demonstrations
import method_pages
import notebook_pages
import sections
import torch
import training_costs
from method_pages import KINDS, Kind
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from showcase import example_for


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every method behind the index of its chapter."""
    assert config.nav is not None
    config.nav = _with_methods(config.nav)
    return config


def _with_methods(nav: list[Any]) -> list[Any]:
    indices = {f"methods/{kind.folder}/index.md": kind for kind in KINDS}
    found: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            found.append({title: _with_methods(e) if isinstance(e, list) else e for title, e in entry.items()})
        elif entry in indices:
            kind = indices[entry]
            found.append({kind.title: [entry, *(kind.page(name) for name in kind.registry.entries())]})
        else:
            found.append(entry)
    return found


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of methods, with their pictures, and those of notebooks, with what running them gives."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # costs are those of one core
    try:
        for kind in KINDS:
            _add_methods(kind, files, config)
    finally:
        torch.set_num_threads(threads)
    for notebook in sorted(Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        text = notebook_pages.page(notebook)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what is written elsewhere."""
    return sections.filled(markdown)


def _add_methods(kind: Kind, files: Files, config: MkDocsConfig) -> None:
    costs: dict[str, str] = {}
    for name in kind.registry.entries():
        shown = _shown(kind, name)
        costs[name] = shown.cost
        picture = f"methods/{kind.folder}/{name}.png"
        if shown.picture:
            files.append(File.generated(config, picture, content=shown.picture))
        text = method_pages.text(kind, name, example_for(kind.folder, name), shown.text.format(picture=f"{name}.png"))
        files.append(File.generated(config, kind.page(name), content=text))
    index = method_pages.index(kind, costs)
    files.append(File.generated(config, f"methods/{kind.folder}/index.md", content=index))


def _shown(kind: Kind, name: str) -> demonstrations.Demonstration:
    example = example_for(kind.folder, name)
    spec = method_pages.spelt_out(kind, name, example)
    if kind.folder == "attacks":
        return demonstrations.of_attack(kind.registry.get(name), spec, example)
    if kind.folder == "defences":
        return demonstrations.of_defense(spec, example)
    return training_costs.of_training(name, spec, example)
