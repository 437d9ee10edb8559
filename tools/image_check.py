"""Checks what can be checked of the container without Docker.

    python tools/image_check.py [--offline]

Reads Dockerfile and .dockerignore: instructions, bases, shell lines, copied files. Then it has pip download every
locked package for the image's Python on linux x86-64, into a folder that it removes again. The exit code is 1 if
something is wrong. What only a build can show is in docs/gpus.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORDS = {"ARG", "CMD", "COPY", "ENV", "FROM", "HEALTHCHECK", "LABEL", "RUN", "VOLUME", "WORKDIR"}  # that are understood
IMAGE = re.compile(r"(?:[\w.-]+(?::\d+)?/)?[\w./-]+(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?")
PYTHON = "3.12"  # of NVIDIA's images since 24.11
GLIBC = 39  # 2.39, of Ubuntu 24.04
LOCKS = ("requirements.hashes", "requirements-engines.hashes")
RAY = "ray[default]"  # what the engines' lock is there for


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile: the line that it starts in, its word, and the rest joined to one line."""

    line: int
    word: str
    rest: str


def instructions(text: str) -> list[Instruction]:
    """The instructions of a Dockerfile, without comments, and with continued lines joined."""
    found: list[Instruction] = []
    start, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        start = start if parts else number
        parts.append(line.rstrip().removesuffix("\\"))
        if not line.rstrip().endswith("\\"):
            word, _, rest = " ".join(parts).strip().partition(" ")
            found.append(Instruction(start, word, rest.strip()))
            parts = []
    if parts:
        found.append(Instruction(start, "\\", "a line is continued, and the file ends"))
    return found


def faults_of(text: str, ignored: str, root: Path) -> Iterator[str]:
    """What is wrong with a Dockerfile and the .dockerignore of the folder `root`, a line each."""
    arguments: dict[str, str] = {}
    stages: set[str] = set()
    for item in instructions(text):
        at = f"Dockerfile:{item.line}: {item.word}"
        match item.word:
            case "ARG":
                name, _, default = item.rest.partition("=")
                arguments.setdefault(name, default)  # without a default it is the one above the first FROM
                yield from [] if name.isidentifier() else [f"{at} {item.rest}: no name"]
            case "FROM":
                yield from (f"{at} {fault}" for fault in base_faults(item.rest, arguments, stages))
            case "ENV" | "LABEL":
                yield from (f"{at} {fault}" for fault in pair_faults(item.rest))
            case "COPY":
                yield from (f"{at} {fault}" for fault in copy_faults(item.rest, ignored, root))
            case "RUN":
                yield from (f"{at}: {fault}" for fault in shell_faults(item.rest))
            case "HEALTHCHECK":
                yield from (f"{at}: {fault}" for fault in health_faults(item.rest))
            case _ if item.word not in WORDS:
                yield f"{at} is not understood: {item.rest}"


def base_faults(rest: str, arguments: dict[str, str], stages: set[str]) -> Iterator[str]:
    """FROM IMAGE [AS STAGE]: the image a stage above, or a name with a tag or digest. Adds its stage to `stages`."""
    match rest.split():
        case [image]:
            pass
        case [image, "AS", stage]:
            if stage in stages:
                yield f"{stage}: two stages of this name"
        case _:
            yield f"{rest}: IMAGE or IMAGE AS STAGE is understood"
            return
    whole = re.sub(r"\$\{(\w+)\}", lambda match: arguments.get(match[1], ""), image)
    if whole not in stages:
        if IMAGE.fullmatch(whole) is None:
            yield f"{image}: {whole!r} is no image"
        elif ":" not in whole.rpartition("/")[2]:
            yield f"{image}: {whole} has neither tag nor digest"
    stages.update(rest.split()[2:])


def pair_faults(rest: str) -> Iterator[str]:
    try:
        pairs = shlex.split(rest)
    except ValueError as error:
        yield f"{rest}: {error}"
        return
    yield from (f"{pair}: NAME=VALUE is understood" for pair in pairs if not re.fullmatch(r"[\w.]+=.*", pair))


def copy_faults(rest: str, ignored: str, root: Path) -> Iterator[str]:
    *sources, _ = rest.split()
    for source in sources:
        if source.startswith("--"):
            yield f"{source}: no option is understood"
            return
        if not (root / source).exists():
            yield f"{source}: no such file"
        elif is_ignored(source, ignored):
            yield f"{source}: .dockerignore keeps it from the build"


def is_ignored(path: str, ignored: str) -> bool:
    """Whether .dockerignore leaves out a path of its folder: the last pattern that fits it decides."""
    left_out = False
    for line in ignored.splitlines():
        pattern = line.strip().removeprefix("!").removeprefix("**/").rstrip("/")
        if pattern and not line.startswith("#") and fnmatch.fnmatchcase(path, pattern):
            left_out = not line.strip().startswith("!")
    return left_out


def shell_faults(code: str) -> Iterator[str]:
    done = subprocess.run(["bash", "-n", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        yield (done.stderr.strip().splitlines() or ["bash does not read it"])[-1]


def health_faults(rest: str) -> Iterator[str]:
    options, word, code = rest.partition("CMD ")
    wrong = [option for option in options.split() if not re.fullmatch(r"--[a-z-]+=\d+[smh]?", option)]
    yield from (f"{option}: --NAME=DURATION is understood" for option in wrong)
    yield from shell_faults(code) if word else ["CMD is missing"]


def pins(lock: Path) -> dict[str, str]:
    """The line of each NAME==VERSION of a lock, with its hashes if it has any. Raises ValueError for another line."""
    lines = lock.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    found = {line.split()[0]: line for line in lines if line and not line.startswith("#")}
    for line in found.values():
        if not re.fullmatch(r"[\w.-]+==[\w.+!-]+(\s+--hash=sha256:[0-9a-f]{64})*", line):
            raise ValueError(f"{lock.name}: {line[:60]!r} is not NAME==VERSION with hashes")
    return found


def platforms() -> list[str]:
    """pip's options for CPython 3.12 on a linux x86-64 with this glibc."""
    names = [f"manylinux_2_{minor}" for minor in range(GLIBC, 4, -1)] + ["manylinux2014", "manylinux2010", "linux"]
    return ["--implementation=cp", f"--python-version={PYTHON}", *(f"--platform={name}_x86_64" for name in names)]


def pip(command: str, *arguments: str) -> str | None:
    """Runs pip; the last line of its error, None if there was none."""
    whole = [sys.executable, "-m", "pip", command, "-q", "--disable-pip-version-check", *platforms(), *arguments]
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
    return (errors or done.stderr.strip().splitlines() or [f"pip {command} exited with {done.returncode}"])[-1]


def download_faults(lock: Path) -> Iterator[str]:
    """Downloads all of a lock for the image, each file as a wheel or as source, and says what came. Checks hashes."""
    with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile("w", suffix=".txt") as one:
        options = ["--no-deps", "--require-hashes", "-d", folder]
        if pip("download", *options, "-r", str(lock)) is not None:  # one that fails hides the others
            for pin, line in pins(lock).items():
                one.seek(0)
                one.truncate()
                one.write(line)
                one.flush()
                if fault := pip("download", *options, "-r", one.name):
                    yield f"{lock.name}: {pin}: {fault}"
        files = sorted(Path(folder).iterdir())
        sources = [path.name for path in files if path.suffix != ".whl"]
        size = sum(path.stat().st_size for path in files) / 1e6
    wheels = len(files) - len(sources)
    print(f"{lock.name}: {wheels} wheels and {len(sources)} sources for Python {PYTHON}, {size:,.0f} MB")
    print(f"  compiled or built in the image: {', '.join(sources) or 'none'}")


def engine_faults(lock: Path) -> Iterator[str]:
    """Whether Ray's needs can be met with the engines' lock. Nothing is downloaded but what pip reads of each file."""
    options = ["--dry-run", "--ignore-installed", "--only-binary=:all:", "--target=.", "--constraint", str(lock)]
    if fault := pip("install", *options, RAY):
        yield f"{lock.name} does not fit {RAY}: {fault}"


def main(argv: Sequence[str], root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--offline", action="store_true", help="only the files, nothing from the package index")
    options = parser.parse_args(argv)
    faults = list(faults_of((root / "Dockerfile").read_text(), (root / ".dockerignore").read_text(), root))
    print(f"Dockerfile: {len(instructions((root / 'Dockerfile').read_text()))} instructions, {len(faults)} faults")
    if not options.offline:
        for name in LOCKS:
            faults += download_faults(root / name)
        faults += engine_faults(root / "requirements-engines.lock")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
