"""Converts a Hugging Face checkpoint to one that NeMo and NeMo-Aligner load with any tensor and pipeline parallelism.

    python tools/convert_hf_to_nemo.py --input models/Qwen3-8B-Base --output models/Qwen3-8B-Base.nemo-dir

It takes Qwen3, Qwen2, Llama and InternLM2 models (docs/conversion.md), builds no model and runs no code of the input.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

from s2l_nemo.arguments import Parser, a_path
from s2l_nemo.hub.files import model_folder
from s2l_nemo.models.checkpoints.command import DTYPES, check_paths, run_command, write_output
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.to_nemo import Format, NemoExport
from s2l_nemo.models.files import left_out
from s2l_nemo.models.megatron_lm import knows_positions, load_arguments


def main(argv: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--input", type=a_path, required=True, help="Hugging Face folder of safetensors, or name")
    parser.add_argument("--output", type=a_path, required=True, help="new folder, or new .nemo file")
    formats = [form.value for form in Format]
    parser.add_argument("--format", choices=formats, help="default: nemo if --output ends in .nemo, else nemo-dir")
    parser.add_argument("--dtype", choices=DTYPES, help="cast the weights; default: as they are")
    parser.add_argument("--merge-adapter", type=a_path, metavar="FOLDER", help="a LoRA adapter of peft to merge")
    parser.add_argument("--tp", type=int, default=1, help="tensor parallelism written into model_config.yaml")
    parser.add_argument("--pp", type=int, default=1, help="pipeline parallelism written into model_config.yaml")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    options = parser.parse_args(argv)
    form = Format(options.format) if options.format else Format.of_output(options.output)
    check_paths(options.input, options.output, tar=form.tar, force=options.force)
    folder = Path(model_folder("--input", str(options.input)))
    source = open_checkpoint(folder, DTYPES.get(options.dtype), adapter=options.merge_adapter)
    plan = NemoExport(source, form, str(folder.resolve()), options.tp, options.pp)
    absent = left_out(folder) if source.kind == "Hugging Face folder" else []
    if absent:
        print(f"left out, as no part of the model: {', '.join(absent)}", file=sys.stderr)
    write_output(options.output, plan.files, plan.write, tar=form.tar, force=options.force)
    if form is Format.MEGATRON:
        arguments = ["--load", str(options.output), *load_arguments(source.shape, source.dtype)]
        print(f"Megatron-LM loads it with {shlex.join(arguments)}")
        if not knows_positions(source.shape):
            print(
                "Megatron-LM up to 0.18 has no arguments for its rope_scaling and goes on with others", file=sys.stderr
            )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
