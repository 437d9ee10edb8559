"""The evaluation of a run, step after step: each checkpoint as a model, and the curve of all of them."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console

from s2l_nemo.config.evaluation import EvaluateConfig, result_name
from s2l_nemo.errors import UserError
from s2l_nemo.evaluation.answers import config_of
from s2l_nemo.evaluation.console import console, print_curve, print_facts
from s2l_nemo.evaluation.curve_plots import Axis, plot_steps
from s2l_nemo.evaluation.folder import EvaluationFolder, find_folder, hash_model
from s2l_nemo.evaluation.run import (
    Question,
    facts,
    make_identity,
    make_sampler,
    open_folder,
    print_notes,
    read_benchmarks,
    read_question,
    sample_and_score,
)
from s2l_nemo.evaluation.steps import ALL, StepCurve, StepModel, models_of_run, prompts_asked, step_name, write_curve
from s2l_nemo.files import write_text_atomic
from s2l_nemo.models.open import Model, open_model


def evaluate_steps(cfg: EvaluateConfig) -> None:
    """Evaluates the run `model` after each of `steps`, in folders `step_N` of one evaluation, and draws the curve.

    What is finished is not repeated. The command may come again when the run has more checkpoints. Raises UserError if
    run, steps, benchmarks and settings do not fit; nothing has been written then.
    """
    assert cfg.model is not None
    out, benchmarks, run = console(), read_benchmarks(cfg), Path(cfg.model)
    models = open_steps(run, cfg.steps, out)
    question = read_question(cfg, benchmarks)
    print_facts(out, "Evaluation", facts(question) | {"steps": ", ".join(str(one.step) for one, _ in models)})
    print_notes(out, question)
    name, root, identity = result_name(cfg), Path(cfg.evaluate.dir), make_identity(question, {})
    folder = find_folder(root, name, identity)
    if folder is not None:
        folder = open_folder(folder, root, name, identity, out)
    curve = None
    for step, model in models:
        digest = hash_model(model)
        if folder is not None and is_finished(question, folder.part(step_name(step.step)), step, digest):
            continue
        sampler = make_sampler(question, model)
        try:
            folder = folder or open_folder(None, root, name, identity, out)
            out.print(f"step {step.step}", style="bold")
            sample_and_score(question, sampler, open_part(folder, step, digest), out)
        finally:
            sampler.close()
        del sampler  # its weights would stand beside those of the next step
        empty_cache()
        curve = draw(folder, name, run)
    assert folder is not None  # there is a step
    # If all was finished, a kill may have left a picture without the last step.
    print_curve(out, curve or draw(folder, name, run))
    out.print(f"written to {folder.output} and {folder.result}", soft_wrap=True)


def open_steps(run: Path, wanted: Sequence[str], out: Console) -> list[tuple[StepModel, Model]]:
    """The models of these steps, opened. With `all`, the one of step 0 is left out if it is gone, and `out` says so."""
    opened = []
    for one in models_of_run(run, wanted):
        try:
            opened.append((one, open_model(one.key, one.path)))
        except UserError as error:
            if one.step or list(wanted) != [ALL]:
                raise
            out.print(f"without step 0, the model before training: {error}", soft_wrap=True)
    if not opened:
        raise UserError(f"model={run} has no complete checkpoint yet: wait for one, or see checkpoint.every")
    return opened


def is_finished(question: Question, part: EvaluationFolder, step: StepModel, digest: str) -> bool:
    """Whether the step has been evaluated. Raises UserError if it was, but with other weights."""
    if not part.config.is_file():
        return False
    sums = config_of(part.output).get("sha256")
    if not isinstance(sums, dict) or sums.get("model") != digest:
        raise UserError(
            f"{step.path} has other weights than those of step {step.step} in {part.output}: the run has begun anew, "
            "give another name"
        )
    return part.is_finished(one.name for one in question.benchmarks)


def open_part(folder: EvaluationFolder, step: StepModel, digest: str) -> EvaluationFolder:
    """The folders of one step, whose config.txt says which weights they are about."""
    part = folder.part(step_name(step.step))
    part.output.mkdir(exist_ok=True)
    part.result.mkdir(exist_ok=True)
    if not part.config.is_file():
        content = {"step": step.step, "sha256": {"model": digest}}
        write_text_atomic(part.config, yaml.safe_dump(content, sort_keys=False))
    return part


def draw(folder: EvaluationFolder, name: str, run: Path) -> StepCurve:
    """Writes the curve of all steps that are finished, and draws it over steps and over prompts."""
    curve = write_curve(folder.result, name, prompts_asked(run))
    for axis in Axis:
        plot_steps([curve], axis, folder.result / f"curve_over_{axis.value}.png")
    return curve


def empty_cache() -> None:
    """Gives back the GPU's memory that nothing uses."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
