"""The commands that README.md and docs/ show, and one mistake at a time in each of their arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from s2l_nemo.config.diversity import DiversityConfig
from s2l_nemo.config.evaluation import EvaluateConfig
from s2l_nemo.config.keys import Key, all_keys, mapping_of
from s2l_nemo.config.load import NO_GROUPS
from s2l_nemo.config.probe import ProbeConfig
from s2l_nemo.config.reproduction import ReproduceConfig
from s2l_nemo.config.schema import Config
from s2l_nemo.config.store import ImportConfig, RunStoreConfig, SampleConfig
from s2l_nemo.planner.cost import PlanOptions
from s2l_nemo.planner.simulation.options import SimulateOptions
from tools.show_rollouts import ShowOptions

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
_BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCHEMAS: dict[str, tuple[type, ...]] = {  # of commands that take key=value; the others take --options
    "recipes/train_s2l.py": (Config,),
    "recipes/evaluate.py": (EvaluateConfig,),
    "recipes/sample_explorer.py": (SampleConfig,),
    "recipes/diversity.py": (DiversityConfig,),
    "recipes/probe.py": (ProbeConfig,),
    "recipes/reproduce.py": (ReproduceConfig,),
    "tools/plan.py": (PlanOptions, Config),
    "tools/simulate.py": (SimulateOptions, Config),
    "tools/show_rollouts.py": (ShowOptions,),
    "tools/import_store.py": (ImportConfig,),
    "tools/store_of_run.py": (RunStoreConfig,),
}
GROUPS = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()} - {*NO_GROUPS}
NOWHERE = "/nowhere/at-all"


@dataclass(frozen=True)
class Command:
    """A command as it is shown: `python script arguments`, or `make arguments`."""

    page: str
    program: str  # the script, or `make`
    arguments: tuple[str, ...]
    is_part: bool = False  # `...` stands for more arguments

    def __str__(self) -> str:
        return f"{self.program} {shlex.join(self.arguments)}"


class Kind(Enum):
    """What is wrong. The value says whether it is wrong whatever the value meant."""

    KEY = "a typo in the name"
    TYPE = "a value of another type"
    CHOICE = "a typo in a choice"
    EMPTY = "no value"
    PATH = "a path that is not there"


@dataclass(frozen=True)
class Mistake:
    """A command with one argument exchanged. A message about it names one of `named`."""

    command: Command
    kind: Kind
    arguments: tuple[str, ...]
    named: tuple[str, ...]
    before: str  # the value that was exchanged, or the whole argument

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.command.program} {shlex.join(self.arguments)}"


def documented() -> list[Command]:
    """Every command of a fenced block of bash, each once."""
    found = [command for page in PAGES for command in commands_of(page)]
    return list({str(command): command for command in found}.values())


def commands_of(page: Path) -> Iterator[Command]:
    """Raises ValueError for a line that is no command that this knows."""
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_0-9]+=\S*", words[0]):
                words = words[1:]
            if words:
                yield from _command(str(page.relative_to(ROOT)), words)


def _command(page: str, words: list[str]) -> Iterator[Command]:
    if words[0] == "make":
        yield Command(page, "make", tuple(words[1:]))
    elif words[0] == "python" and (ROOT / words[1]).is_file():
        # [--option a|b] may be given: with its first choice. `...` stands for arguments of one's own.
        shown = [word.strip("[]").split("|")[0] if word.startswith("[-") or (word.endswith("]")
                 and "=" not in word) else word
                 for word in words[2:] if word != "..."]  # fmt: skip
        yield Command(page, words[1], tuple(shown), "..." in words)
    else:
        raise ValueError(f"{page}: {' '.join(words)} is no command of this project")


def mistakes(command: Command) -> Iterator[Mistake]:
    """One mistake in one argument at a time. Values of free text have none that could be known as one."""
    if command.program == "make":
        return
    for place, argument in enumerate(command.arguments):
        before, after = command.arguments[:place], command.arguments[place + 1 :]
        for kind, wrong, named in _wrong(command, place, argument):
            value = argument.partition("=")[2] or argument
            yield Mistake(command, kind, (*before, *wrong, *after), named, value)


def _wrong(command: Command, place: int, argument: str) -> Iterator[tuple[Kind, tuple[str, ...], tuple[str, ...]]]:
    name, equals, value = argument.partition("=")
    if argument.startswith("--"):
        yield Kind.KEY, (swapped(argument),), (swapped(argument),)
    elif not equals:
        yield from _wrong_value(command, place, argument)
    elif command.program in SCHEMAS:
        typo = swapped(name)
        parts = [part for part, was in zip(typo.split("."), name.split("."), strict=True) if part != was]
        yield Kind.KEY, (f"{typo}={value}",), (typo, *parts)
        if name in GROUPS:
            yield Kind.CHOICE, (f"{name}={swapped(value)}",), (swapped(value),)
        key = key_of(command.program, name)
        if key is not None:
            yield from ((kind, (f"{name}={wrong}",), (name, wrong)) for kind, wrong in _wrong_for(key, value))


def _wrong_value(
    command: Command, place: int, argument: str
) -> Iterator[tuple[Kind, tuple[str, ...], tuple[str, ...]]]:
    """A value behind an option, or an argument without a name."""
    option = command.arguments[place - 1] if place and command.arguments[place - 1].startswith("--") else ""
    names = (option,) if option else ()
    if re.fullmatch(r"\d+", argument):
        yield Kind.TYPE, ("many",), (*names, "many")
    elif re.fullmatch(r"\d+[KMG]B", argument):
        yield Kind.TYPE, ("5XB",), (*names, "5XB")
    elif option in ("--format", "--dtype", "--config-name"):
        yield Kind.CHOICE, (swapped(argument),), (*names, swapped(argument))
    else:
        yield Kind.PATH, (NOWHERE,), (*names, NOWHERE)
        yield Kind.EMPTY, ("",), names or ("",)


def _wrong_for(key: Key, value: str) -> Iterator[tuple[Kind, str]]:
    expected = key.expected()
    if key.facts.choices is not None or " | " in expected.replace("true | false", ""):
        yield Kind.CHOICE, swapped(value)
    if not key.is_list and "text" not in expected and "mapping" not in expected:
        yield Kind.TYPE, "so-many"
        yield Kind.TYPE, "[1,2]"
    if key.is_list and "integer" in expected:
        yield Kind.TYPE, "[so-many]"
    if "null" not in expected and "text" not in expected and not key.is_list:
        yield Kind.EMPTY, ""
    if "text" in expected and ("/" in value or value.isupper()):
        yield Kind.PATH, NOWHERE


def key_of(program: str, name: str) -> Key | None:
    """The key of this name in what the command takes."""
    schemas = SCHEMAS[program]
    return next((key for one in schemas if (key := all_keys(one).get(name) or mapping_of(name, one))), None)


def swapped(word: str) -> str:
    """The word with two neighbouring letters exchanged, else with one more: no other word of the same letters."""
    for place in range(len(word) - 2, 0, -1):
        one, other = word[place], word[place + 1]
        if one.isalpha() and other.isalpha() and one != other:
            return word[:place] + other + one + word[place + 2 :]
    return f"{word}x"
