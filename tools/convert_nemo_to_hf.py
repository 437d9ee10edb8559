"""Converts a NeMo or Megatron checkpoint to a Hugging Face folder that transformers, vLLM and TensorRT-LLM load.

    python tools/convert_nemo_to_hf.py --input runs/8b/final.nemo --output models/Qwen3-8B-S2L
    python tools/convert_nemo_to_hf.py --input runs/8b/checkpoints/step_000040 --output models/Qwen3-8B-S2L-40

A run's folder stands for its newest checkpoint. The input may have been saved with any tensor and pipeline parallelism.
It builds no model.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a clone without installation

from s2l_nemo.arguments import Parser, a_path
from s2l_nemo.errors import UserError
from s2l_nemo.hub.files import model_folder
from s2l_nemo.models.checkpoints.command import DTYPES, check_paths, parse_size, run_command, write_output
from s2l_nemo.models.checkpoints.compare import TOKENIZER_FILES
from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.to_hugging_face import HuggingFaceExport, tensors_of
from s2l_nemo.models.families import AS_LLAMA
from s2l_nemo.records.checkpoints import weights_of


def main(argv: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument(
        "--input", type=a_path, required=True, help="NeMo folder, .nemo file, Megatron folder, or a run"
    )
    parser.add_argument("--output", type=a_path, required=True, help="new Hugging Face folder")
    parser.add_argument("--as-llama", action="store_true", help="InternLM2.5 under Llama's names, for engines")
    parser.add_argument(
        "--hf-files", type=a_path, help="folder or name, of config.json and tokenizer if --input has none"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="cast the weights; default: as they are")
    parser.add_argument("--max-shard-size", type=parse_size, default="5GB", help="of a safetensors file; default 5GB")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    options = parser.parse_args(argv)
    check_paths(options.input, options.output, tar=False, force=options.force)
    if options.hf_files is not None:
        options.hf_files = Path(model_folder("--hf-files", str(options.hf_files), weights=False))
    path = weights_of(options.input)
    if path != options.input:
        print(f"{options.input} is the folder of a run: its newest checkpoint is {path}")
    source = open_checkpoint(path, DTYPES.get(options.dtype), options.hf_files)
    if options.as_llama and source.shape.engine_family != AS_LLAMA:
        raise UserError(
            f"--as-llama: {options.input} is a {source.shape.family} model, which is no Llama under other names: "
            "leave it out"
        )
    plan = HuggingFaceExport(
        source.shape,
        source.dtype,
        source.hf_files,
        engine_form=options.as_llama,
        redundant_output=source.redundant_output,
        max_shard_bytes=options.max_shard_size,
    )
    if not any(name in plan.files for name in TOKENIZER_FILES):
        print(
            f"warning: {options.input} carries no tokenizer, so {options.output} has none: add its files, or give "
            "--hf-files DIR",
            file=sys.stderr,
        )
    tensors = tensors_of(source, plan.family)
    write_output(options.output, plan.files, lambda output: plan.write(output, tensors), tar=False, force=options.force)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
