"""Conversions in one call, as the commands do them."""

from __future__ import annotations

from pathlib import Path

from s2l_nemo.models.checkpoints.open import open_checkpoint
from s2l_nemo.models.checkpoints.to_hugging_face import HuggingFaceExport, tensors_of
from s2l_nemo.models.checkpoints.to_nemo import Format, NemoExport
from s2l_nemo.models.formats.output import new_output


def to_nemo(source: Path, output: Path, form: Format | None = None) -> Path:
    """If `form` is not given, it follows from the name of the output."""
    form = form or Format.of_output(output)
    plan = NemoExport(open_checkpoint(source), form, "")
    with new_output(output, plan.files, tar=form.tar, force=False) as files:
        plan.write(files)
    return output


def to_hf(source: Path, output: Path, *, engine_form: bool = False, hf_files: Path | None = None) -> Path:
    checkpoint = open_checkpoint(source, hf_files=hf_files)
    plan = HuggingFaceExport(
        checkpoint.shape,
        checkpoint.dtype,
        checkpoint.hf_files,
        engine_form=engine_form,
        redundant_output=checkpoint.redundant_output,
    )
    with new_output(output, plan.files, tar=False, force=False) as files:
        plan.write(files, tensors_of(checkpoint, plan.family))
    return output
