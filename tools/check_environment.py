"""Prints what this machine has, what is missing, and which runs it can start.

    python tools/check_environment.py [--engine-python PYTHON] [--folder DIR] [--json]

The exit code is 0 if the tiny preset can run, 1 if it cannot, and 2 for a wrong option.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

from s2l_nemo.arguments import Parser, a_path, name_or_path
from s2l_nemo.platform.environment import Machine, Package, Verdict, as_json, judge, look
from s2l_nemo.platform.failures import command

WIDTH = 120
Row = tuple[str, str, str]


@command
def main(argv: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "--engine-python", type=name_or_path, help="interpreter of the engine servers, as engine.python"
    )
    parser.add_argument("--folder", type=a_path, default=Path(), help="where runs will be written (default: here)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    if not options.folder.is_dir():
        parser.error(f"--folder {options.folder} is not a folder")
    machine = look(options.folder, options.engine_python)
    verdicts = judge(machine)
    print(as_json(machine, verdicts)) if options.json else show(machine, verdicts)
    return 0 if verdicts[0].can_run else 1


def show(machine: Machine, verdicts: list[Verdict]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:  # the table needs it
        print("rich is missing, so there is no table: run make setup, or give --json", file=sys.stderr)
        return
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    tables = [
        ("Machine", ("", "found", ""), list(machine_rows(machine))),
        ("Packages of the trainer", ("", "found", "needed"), list(trainer_rows(machine))),
        (
            "Packages of engine.python: of transformers, TensorRT-LLM or vLLM",
            ("", "found", "needed"),
            list(engine_rows(machine)),
        ),
    ]
    for title, columns, rows in tables:
        table = Table(*columns, title=title, title_justify="left", title_style="bold")
        for row in rows:
            table.add_row(*row)
        console.print(table, "")
    table = Table("", "can run", "reason", title="What can run", title_justify="left", title_style="bold")
    for verdict in verdicts:
        table.add_row(verdict.what, "[green]yes[/green]" if verdict.can_run else "[red]no[/red]", verdict.reason)
    console.print(table)


def machine_rows(machine: Machine) -> Iterator[Row]:
    yield "Python", machine.python, machine.executable
    yield "system", machine.system, f"{machine.cpus} CPUs, {machine.memory_gb:,.0f} GB of memory"
    yield "disk, /dev/shm", f"{machine.disk_gb:,.0f} GB free", free(machine.shm_gb)
    yield "locked memory", machine.memlock, "InfiniBand wants it unlimited"
    yield "loopback", machine.loopback or "works", "engine servers listen on it"
    yield "CUDA of torch", machine.cuda_of_torch or "none", f"NCCL {machine.nccl or 'none'}"
    for index, device in enumerate(machine.devices):
        yield f"GPU {index}", device.name, f"{device.memory_gb:,.0f} GB, driver {device.driver}"
    if not machine.devices:
        yield "GPU", "none", "nvidia-smi lists none"
    for name, value in machine.variables.items():
        yield name, value, "environment"


def free(size_gb: float | None) -> str:
    return "no /dev/shm" if size_gb is None else f"{size_gb:,.1f} GB free in /dev/shm"


def package_row(package: Package) -> Row:
    colour = "green" if package.ok else "red"
    return package.name, f"[{colour}]{package.found or 'missing'}[/{colour}]", package.needed or "any"


def trainer_rows(machine: Machine) -> Iterator[Row]:
    yield from (package_row(package) for package in machine.packages)
    yield from ((package.name, package.found or "missing", "on GPUs, from the image") for package in machine.extras)


def engine_rows(machine: Machine) -> Iterator[Row]:
    if machine.engine is None:
        yield "--engine-python not given", "", "servers use the trainer's interpreter"
        return
    yield "Python", machine.engine.python or "does not run", machine.engine.fault or machine.engine.path
    yield from (package_row(package) for package in machine.engine.packages)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
