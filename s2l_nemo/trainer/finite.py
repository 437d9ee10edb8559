"""What is not finite neither trains nor spreads: no update with it, no refit and no checkpoint of it."""

from __future__ import annotations

from s2l_nemo.actor.protocol import Actor
from s2l_nemo.errors import UserError
from s2l_nemo.trainer.progress import Progress

CONTINUE = "and run the same command: it continues from the last checkpoint, which is good"


def check_weights(actor: Actor, step: int) -> None:
    """Raises UserError on every rank if a weight of any of them is not finite. Collective.

    `step` is the one that has updated them, 0 for those that a run begins with.
    """
    if actor.weights_are_finite():
        return
    if step == 0:
        raise UserError("model.path has weights that are not finite numbers: repair it or choose another model")
    raise UserError(
        f"the learner's weights are not finite after step {step}, which is not saved: lower model.optim.lr {CONTINUE}"
    )


def check_skipped(progress: Progress, allowed: int) -> None:
    """Raises UserError if more than `allowed` updates in a row were skipped. The step then must not be saved."""
    if progress.skipped > allowed:
        raise UserError(
            f"loss or gradients were not finite in {progress.skipped} updates in a row up to step {progress.step}, "
            f"more than run.max_skipped={allowed}: lower model.optim.lr {CONTINUE}"
        )
