"""Every key of the theory probes, typed."""

from __future__ import annotations

from dataclasses import dataclass, field

from s2l_nemo.config.checks import check_ranges
from s2l_nemo.config.schema import FOLDER, DataConfig
from s2l_nemo.errors import UserError
from s2l_nemo.fields import POSITIVE, POSITIVE_COUNT, SEED, TEMPERATURE, at_least, key
from s2l_nemo.models.precision import Precision


@dataclass
class ProbeConfig:
    model: str = key(
        "models/tiny/learner", "the learner, whose scores are taken: any model that model.path may be", path=True
    )
    explorer: str | None = key(
        "models/tiny/explorer", "the smaller policy; null: only the learner's temperatures", path=True
    )
    output: str = key("probes", "folder for probe.json, probe.csv and the pictures", FOLDER, path=True)
    prompts: int = key(16, "held-out prompts; intervals are over them", at_least(2))
    samples: int = key(16, "rollouts of each prompt, by each policy", at_least(2))
    temperature: float = key(
        1.0, "of the baseline and of the explorer; at 1 the baseline's scores have mean 0", TEMPERATURE
    )
    high_temperature: float = key(
        1.5, "of the token-level perturbation (Eq. 5); the paper's baseline has 1.5", POSITIVE
    )
    directions: int = key(4, "random directions v for each prompt, besides that of the reference trace", POSITIVE_COUNT)
    perturbations: int = key(4, "draws of the parameters' perturbation for each prompt (Prop. E.4)", POSITIVE_COUNT)
    scale: float = key(0.01, "size of that perturbation: its share of each tensor's root mean square", POSITIVE)
    max_prompt_length: int = key(64, "tokens; longer prompts are left out", POSITIVE_COUNT)
    max_response_length: int = key(96, "tokens; longer responses are cut", POSITIVE_COUNT)
    rows: int = key(16, "rollouts that are sampled or differentiated at once", POSITIVE_COUNT)
    seed: int = key(1, "seed of samples, directions, perturbations and bootstrap intervals", SEED)
    precision: Precision = key(Precision.fp32, "number format of the models; second derivatives in bf16 are rough")
    data: DataConfig = field(default_factory=DataConfig)


def check_probe_config(cfg: ProbeConfig) -> None:
    """Raises UserError for the first value that is out of range or does not fit the others. Reads no file."""
    check_ranges(cfg, ProbeConfig)
    if cfg.high_temperature <= cfg.temperature:
        raise UserError(
            f"high_temperature={cfg.high_temperature:g} is not above temperature={cfg.temperature:g}: raise it, it "
            "is the token-level perturbation of that baseline"
        )
