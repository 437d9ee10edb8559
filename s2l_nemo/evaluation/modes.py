"""The two ways to ask Qwen3: with and without a thinking part. Values of its model card and the released evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from s2l_nemo.config.asking import Asking, Mode


@dataclass(frozen=True)
class Settings:
    """How responses are sampled, whatever the benchmark; see `types.SamplingParams`."""

    temperature: float
    top_p: float
    top_k: int
    presence_penalty: float


MODES = {
    Mode.nothink: Settings(temperature=0.7, top_p=0.8, top_k=20, presence_penalty=1.5),
    Mode.think: Settings(temperature=0.6, top_p=0.95, top_k=20, presence_penalty=0.0),
}


def settings(mode: Mode, options: Asking) -> Settings:
    """The mode's settings, but for those that the user gave."""
    given = {name: getattr(options, name) for name in asdict(MODES[mode])}
    return replace(MODES[mode], **{name: value for name, value in given.items() if value is not None})
