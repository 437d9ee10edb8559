"""Compares two checkpoints of any format bit by bit, and checks the SHA-256 manifests beside them.

    python tools/verify_checkpoint.py models/Qwen3-8B-Base models/Qwen3-8B-Base.nemo-dir

The exit code is 0 if the weights are the same, 1 if they differ, and 2 if one cannot be read. A table lists the
differences.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

from rich.console import Console
from rich.table import Column, Table

from s2l_nemo.arguments import Parser, a_path
from s2l_nemo.hub.files import model_folder
from s2l_nemo.models.checkpoints.command import DTYPES, byte_progress, run_command
from s2l_nemo.models.checkpoints.compare import Difference, compare, compared_bytes
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.formats.manifest import check_manifest, find_manifest, manifest_bytes

SHOWN = 40  # differences that the table lists


def main(argv: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "a", type=a_path, help="Hugging Face folder or name, NeMo folder, .nemo file or Megatron folder"
    )
    parser.add_argument("b", type=a_path, help="the same")
    parser.add_argument("--hf-files", type=a_path, help="folder of config.json, for a checkpoint that has none")
    parser.add_argument("--dtype", choices=DTYPES, help="compare after a cast, as the conversion with --dtype does it")
    options = parser.parse_args(argv)
    options.a, options.b = (Path(model_folder("checkpoint", str(path))) for path in (options.a, options.b))
    one, other = (open_checkpoint(path, DTYPES.get(options.dtype), options.hf_files) for path in (options.a, options.b))
    differences: list[Difference] = []
    checked: list[str] = []
    for path in (options.a, options.b):
        manifest = find_manifest(path)
        checked.append("no manifest" if manifest is None else "manifest checked")
        if manifest is not None:
            with byte_progress(f"hashing {path.name}", manifest_bytes(manifest)) as progress:
                faults = check_manifest(manifest, progress)
            differences += [Difference(str(file), fault, "") for file, fault in faults]
    with byte_progress("comparing", compared_bytes(one)) as progress:
        differences += compare(one, other, progress)
    for path, checkpoint, manifest_state in zip((options.a, options.b), (one, other), checked, strict=True):
        kind = f"{checkpoint.kind}, {checkpoint.shape.family}, {str(checkpoint.dtype).removeprefix('torch.')}"
        print(f"{path}: {kind}, {checkpoint.shape.parameters:,} parameters, {manifest_state}")
    if not differences:
        print("the same weights, bit for bit")
        return 0
    show(differences, str(options.a), str(options.b))
    return 1


def show(differences: list[Difference], one: str, other: str) -> None:
    columns = [Column(name, overflow="fold") for name in ("what", one, other)]
    table = Table(*columns, title=f"{len(differences)} differences")
    for difference in differences[:SHOWN]:
        table.add_row(difference.what, difference.one, difference.other)
    if len(differences) > SHOWN:
        table.add_row(f"and {len(differences) - SHOWN} more", "", "")
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
