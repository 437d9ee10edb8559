"""What an engine is told when it is made, in this process or, as JSON, in a server process."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from typing_extensions import assert_never

from s2l_nemo.models.precision import Precision
from s2l_nemo.types import Source


@dataclass(frozen=True)
class EngineSettings:
    """One model and how to run it. A kind of engine takes what it needs."""

    source: Source  # whom the completions come from
    key: str  # the configuration key that names the model, for messages
    path: str  # of the model
    precision: Precision
    device: str  # as torch writes it, such as "cuda:1"
    max_batch_rows: int  # sequences that decode at once
    max_sequence_length: int  # tokens of a prompt and its response
    tensor_parallel_size: int  # GPUs of one engine
    memory_fraction: float  # of the free GPU memory, for the KV cache

    @property
    def name(self) -> str:
        """The engine in messages: "the learner engine (model.path=models/tiny/learner)"."""
        return f"the {self.source.name.lower()} engine ({self.key}={self.path})"

    @property
    def dtype(self) -> torch.dtype:
        match self.precision:
            case Precision.fp32:
                return torch.float32
            case Precision.bf16:
                return torch.bfloat16
            case _:
                assert_never(self.precision)

    def to_json(self) -> dict[str, Any]:
        """The settings as values that JSON knows."""
        return asdict(self) | {"source": self.source.name, "precision": self.precision.value}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EngineSettings:
        """The settings of `to_json`. Raises ValueError if a field is missing or unknown."""
        known = {field.name for field in fields(cls)}
        if values.keys() != known:
            wrong = sorted(values.keys() ^ known)
            raise ValueError(f"settings of an engine with missing or unknown fields: {', '.join(wrong)}")
        return cls(**values | {"source": Source[values["source"]], "precision": Precision(values["precision"])})
