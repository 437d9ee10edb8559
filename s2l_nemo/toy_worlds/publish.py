"""Makes a family in its folder, whole or not at all, and only if it is not there."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from s2l_nemo.data import arithmetic, word_problems
from s2l_nemo.errors import UserError
from s2l_nemo.files import read_json_object
from s2l_nemo.toy_worlds.coverage import CoverageRecipe
from s2l_nemo.toy_worlds.plain import PlainRecipe

FACTS = "family.json"
MODELS = ("learner", "explorer")
Recipe = PlainRecipe | CoverageRecipe


def key_of(recipe: Recipe) -> str:
    """A hash of recipe and code. Equal keys give equal families."""
    room = sorted(Path(__file__).parent.glob("*.py"))
    sources = [*room, Path(arithmetic.__file__), Path(word_problems.__file__)]
    code = b"".join(source.read_bytes() for source in sources)
    name = type(recipe).__name__
    return hashlib.sha256(code + name.encode() + json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()


def publish(recipe: Recipe, output: Path, force: bool, console: Console) -> dict[str, Any]:
    """Makes the family in `output`, unless the family of this recipe is there. Returns the content of family.json.

    A new family takes its place once it is complete. Raises UserError if `output` holds something that this tool has
    not made.
    """
    facts_path = output / FACTS
    if output.exists() and not facts_path.is_file() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is no family of this tool: choose another --output or remove it")
    if facts_path.is_file() and not force:
        facts = _read_facts(facts_path)
        if facts["key"] == key_of(recipe):
            console.print(f"{output} is up to date; --force makes it again")
            return facts
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        facts = _made(recipe, new, console)
        (new / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
        if output.exists():
            output.rename(Path(scratch) / "old")
        new.rename(output)
    return facts


def _read_facts(path: Path) -> dict[str, Any]:
    """Raises UserError if the file does not say of which recipe the family is and what it scored."""
    remedy = "--force makes the family again"
    facts = read_json_object(path, remedy)
    if not isinstance(facts.get("key"), str) or not all(isinstance(facts.get(name), dict) for name in MODELS):
        raise UserError(f"{path} lacks key or figures of {' and '.join(MODELS)}: {remedy}")
    return facts


def _made(recipe: Recipe, folder: Path, console: Console) -> dict[str, Any]:
    """Has the recipe make the family in `folder`. Returns the content of family.json."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:

        def steps(title: str, total: int) -> Callable[[], None]:
            task = progress.add_task(title, total=total)
            return lambda: progress.advance(task)

        facts = recipe.make(folder, steps)
    return {
        "key": key_of(recipe),
        "recipe": asdict(recipe),
        # the metadata of PyPI's torch lacks the "+cu130"
        "versions": {
            "torch": str(torch.__version__),
            "transformers": version("transformers"),
            "tokenizers": version("tokenizers"),
        },
        **facts,
    }
