"""One sbatch script a job: those of recipes/slurm with the keys of the job set."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from s2l_nemo.errors import UserError
from s2l_nemo.files import write_text_atomic
from s2l_nemo.reproduction.ledger import Entry, Ledger, Status
from s2l_nemo.reproduction.plan import Job, JobKind

TEMPLATES = {
    JobKind.train: Path("recipes/slurm/train_8gpu.sbatch"),
    JobKind.evaluate: Path("recipes/slurm/evaluate_8gpu.sbatch"),
    JobKind.models: Path("recipes/slurm/evaluate_8gpu.sbatch"),
}
FOLDER = "slurm"
_NAME = re.compile(r"^#SBATCH --job-name=.*$", re.MULTILINE)
_OUTPUT = re.compile(r"^#SBATCH --output=.*$", re.MULTILINE)
_START = re.compile(r"^set -euo pipefail$", re.MULTILINE)
_JOB_ID = re.compile(r"(\d+)(;.*)?")


def write_scripts(ledger: Ledger, clone: Path) -> list[Path]:
    """Writes ROOT/slurm/NAME.sbatch of every job that is not done, and plan.json.

    Raises UserError outside of the clone, in which Slurm starts the scripts.
    """
    if Path.cwd() != clone:
        raise UserError(f"slurm=true in {Path.cwd()}: call it in the clone, {clone}")
    folder = ledger.root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (ledger.root / "logs").mkdir(exist_ok=True)
    paths = []
    for entry in ledger.unfinished():
        template = (clone / TEMPLATES[entry.job.kind]).read_text(encoding="utf-8")
        write_text_atomic(script_of(ledger, entry.job), script(entry.job, template))
        paths.append(script_of(ledger, entry.job))
    ledger.write()
    return paths


def script_of(ledger: Ledger, job: Job) -> Path:
    """Where the script of a job lies."""
    return ledger.root / FOLDER / f"{job.name}.sbatch"


def script(job: Job, template: str) -> str:
    """A script of recipes/slurm with the name, the log and the keys of a job."""
    keys = shlex.join(job.arguments[1:])
    text = _NAME.sub(lambda _: f"#SBATCH --job-name={job.name}", template)
    text = _OUTPUT.sub(lambda _: f"#SBATCH --output={job.log}\n#SBATCH --open-mode=append", text)
    return _START.sub(lambda start: f'{start[0]}\nset -- {keys} "$@"', text)


def submit(ledger: Ledger, clone: Path) -> list[Entry]:
    """Hands the scripts of all jobs to sbatch that are not done and that Slurm does not have; returns those.

    An evaluation waits in Slurm for its training run. Raises UserError if sbatch is not there or refuses a script.
    """
    handed = []
    for entry in ledger.unfinished():
        if entry.slurm_id is not None and _is_known(entry.slurm_id):
            continue
        after = None if entry.job.after is None else ledger.entries[entry.job.after]
        needs = [] if after is None or after.slurm_id is None else [f"--dependency=afterok:{after.slurm_id}"]
        said = _call(["sbatch", "--parsable", *needs, str(script_of(ledger, entry.job))], clone)
        found = _JOB_ID.fullmatch(said.strip())
        if found is None:
            raise UserError(f"sbatch answered {said.strip()!r}, which is no number of a job")
        entry.slurm_id, entry.status = found[1], Status.submitted
        ledger.write()
        handed.append(entry)
    ledger.write()
    return handed


def _is_known(slurm_id: str) -> bool:
    """Whether the job waits or runs."""
    return bool(_call(["squeue", "--noheader", "--format=%i", f"--jobs={slurm_id}"], None, may_fail=True).strip())


def _call(command: list[str], folder: Path | None, *, may_fail: bool = False) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(f"submit=true and there is no {command[0]} here: call it on a machine of the cluster") from None
    if done.returncode and not may_fail:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError(f"{shlex.join(command)} failed: {said}")
    return "" if done.returncode else done.stdout
