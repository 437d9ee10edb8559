"""What TensorRT-LLM asks of a bucket beside its names and shapes."""

from __future__ import annotations

from collections.abc import Container

from s2l_nemo.engines.protocol import Bucket

# The engine keeps these in one matrix: they come in one bucket.
_FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_OTHER = {"weight": "bias", "bias": "weight"}


def check_fused(bucket: Bucket, names: Container[str], version: int) -> None:
    """Raises ValueError for a tensor that comes without those with which the engine fuses it. `names` are all."""
    for name in bucket:
        apart = [other for other in _fused_with(name) if other in names and other not in bucket]
        if apart:
            raise ValueError(
                f"weight version {version}: {name} came without {apart[0]}, which is fused with it: send one bucket"
            )


def _fused_with(name: str) -> list[str]:
    module, _, kind = name.rpartition(".")
    for parts in _FUSED:
        for part in parts:
            if module.endswith(f".{part}"):
                others = [module.removesuffix(part) + other for other in parts]
                return [f"{other}.{kind}" for other in others] + [f"{other}.{_OTHER[kind]}" for other in others]
    return [name]
