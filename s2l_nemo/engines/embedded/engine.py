"""Engines in the process that calls them: a transformers model, sampled by continuous batching."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import no_init_weights

from s2l_nemo.engines.answers import check_fits
from s2l_nemo.engines.embedded.attention import GROUPED_SDPA
from s2l_nemo.engines.embedded.decoder import Decoder, TorchDecoder, fits
from s2l_nemo.engines.embedded.runner import Runner
from s2l_nemo.engines.embedded.scheduler import Row, Scheduler
from s2l_nemo.engines.protocol import Bucket, LocalEngine, RefitStats
from s2l_nemo.errors import UserError
from s2l_nemo.types import Completion, SampleRequest, SamplingParams, Source

Engine = TypeVar("Engine", bound="EmbeddedEngine")


class EmbeddedEngine(LocalEngine):
    """Samples from one frozen transformers decoder (see `protocol.RolloutEngine`).

    The model reads each distinct prompt once; its keys and values are copied to the rows of its group. At most
    `max_batch_rows` sequences decode at once. A finished row leaves the batch at once, and waiting requests join.
    Any decoder that AutoModelForCausalLM loads without remote code will do if it keeps its state in a `Cache` and
    takes `logits_to_keep`. The engine owns the model: it changes its attention.

    A request has the same tokens in any batch and in any process, and log-probs that agree within 1e-5 in float32. Bits
    are not promised: a matrix product rounds differently for another number of rows or threads. A draw that falls
    within that rounding gives another token: about one in a million in float32, far more in bfloat16.
    """

    def __init__(self, model: Any, *, source: Source, max_batch_rows: int) -> None:
        """`source` is written into every completion."""
        self._model = model.eval().requires_grad_(False)
        if model._supports_attention_backend:  # else the model keeps transformers' own attention
            model.config._attn_implementation = GROUPED_SDPA
        self._decoder = _decoder_of(self._model)
        self._source = source
        self._max_batch_rows = max_batch_rows
        self._weight_version = 0

    @classmethod
    def from_pretrained(
        cls: type[Engine],
        path: str | Path,
        *,
        source: Source,
        device: str | torch.device,
        dtype: torch.dtype,
        max_batch_rows: int,
    ) -> Engine:
        """Loads a local Hugging Face folder. Raises UserError if there is none."""
        if not (Path(path) / "config.json").is_file():
            raise UserError(f"no Hugging Face model in {path}: it has no config.json; give the folder of a checkpoint")
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            path,
            config=_without_unused_window(config),
            torch_dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        ).to(device)
        for parameter in model.parameters():
            if parameter.is_cpu:
                # It is mapped where the file has it, and sums depend on how an address is aligned: the same weights in
                # another file, or from another format, would give numbers that differ in the last bit.
                parameter.data = parameter.data.clone()
        return cls(model, source=source, max_batch_rows=max_batch_rows)

    @classmethod
    def from_weights(
        cls: type[Engine],
        config: Mapping[str, Any],
        buckets: Iterable[Bucket],
        *,
        source: Source,
        device: str | torch.device,
        dtype: torch.dtype,
        max_batch_rows: int,
    ) -> Engine:
        """Builds the model that a Hugging Face config.json describes, and fills it with `buckets`.

        Tied weights come once. Raises ValueError for a name that is unknown, missing, repeated or of another shape.
        """
        figures = dict(config)
        model_config = AutoConfig.for_model(figures.pop("model_type"), **figures)
        with no_init_weights(), torch.device(device):
            model = AutoModelForCausalLM.from_config(
                _without_unused_window(model_config),
                torch_dtype=dtype,
                attn_implementation="sdpa",
                trust_remote_code=False,
            )
        model.tie_weights()  # left out with the initialisation
        engine = cls(model, source=source, max_batch_rows=max_batch_rows)
        engine._fill(buckets, "weights given")
        return engine

    @property
    def model(self) -> Any:
        """The transformers model, for those who differentiate its log-probs. It stays the engine's own."""
        return self._model

    def generate(self, requests: Sequence[SampleRequest], params: SamplingParams) -> list[Completion]:
        """One completion per request, in the order of the requests; see `RolloutEngine.generate`."""
        finished = dict(self.stream(requests, params))
        return [finished[index] for index in range(len(requests))]

    def stream(self, requests: Sequence[SampleRequest], params: SamplingParams) -> Iterator[tuple[int, Completion]]:
        """See `StreamingEngine.stream`."""
        check_fits(requests, params, self._model.config.max_position_embeddings, whose="model")
        for row in self._decode(requests, params):
            yield (
                row.index,
                Completion(
                    prompt_id=row.request.prompt_id,
                    sample_id=row.request.sample_id,
                    source=self._source,
                    token_ids=np.array(row.tokens, np.int32),
                    logprobs=np.array(row.logprobs, np.float32),
                    finish_reason="stop" if row.tokens[-1] in params.stop_token_ids else "length",
                    weight_version=self._weight_version,
                ),
            )

    def weight_hash(self) -> str:
        """See `RolloutEngine.weight_hash`."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._weights().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def _decode(self, requests: Sequence[SampleRequest], params: SamplingParams) -> Iterator[Row]:
        """All rows, in the order in which they finish."""
        scheduler = Scheduler(requests, params, self._max_batch_rows)
        longest = max((len(request.prompt_token_ids) for request in requests), default=0)
        runner = Runner(self._model, self._decoder, params, scheduler.slots, longest + params.max_new_tokens)
        while scheduler.busy:
            step = scheduler.schedule()
            tokens, logprobs = runner.run(step)
            finished, moves = scheduler.postprocess(step, tokens, logprobs)
            if moves is not None:
                runner.move(moves)
            yield from finished

    def _weights(self) -> dict[str, torch.Tensor]:
        """Parameters and persistent buffers, tied ones under their first name only."""
        weights: dict[int, tuple[str, torch.Tensor]] = {}
        for name, tensor in self._model.state_dict(keep_vars=True).items():
            weights.setdefault(id(tensor), (name, tensor))
        return dict(weights.values())

    @torch.no_grad()
    def _fill(self, buckets: Iterable[Bucket], what: str) -> None:
        """Replaces every weight in place. Raises ValueError, beginning with `what`, unless each comes exactly once."""
        missing = self._weights()
        known = set(missing)
        for bucket in buckets:
            for name, tensor in bucket.items():
                if name not in known:
                    raise ValueError(f"{what}: the model has no tensor {name} (or it is tied)")
                if name not in missing:
                    raise ValueError(f"{what}: tensor {name} came twice")
                ours = missing.pop(name)
                if ours.shape != tensor.shape:
                    raise ValueError(
                        f"{what}: tensor {name} has shape {tuple(tensor.shape)}, the model's has {tuple(ours.shape)}"
                    )
                ours.copy_(tensor)
        if missing:
            raise ValueError(f"{what}: {len(missing)} tensors are missing, first {min(missing)}")
        if self._decoder is not None:
            self._decoder.pack()


def _decoder_of(model: Any) -> Decoder[Any] | None:
    """The decoder for where the model's weights are, or None if the model must decode itself."""
    if not fits(model):
        return None
    if model.device.type != "cpu" or model.dtype not in (torch.float32, torch.bfloat16):
        return TorchDecoder(model)
    from s2l_nemo.engines.embedded.cpu_decoder import CpuDecoder  # compiles its kernels

    return CpuDecoder(model)


def _without_unused_window(config: Any) -> Any:
    """Qwen2.5 states the length of a window that it does not use, and transformers warns as if it did."""
    if not getattr(config, "use_sliding_window", True):
        config.sliding_window = None
    return config


class EmbeddedLearnerEngine(EmbeddedEngine):
    """An engine whose weights follow the actor's (see `protocol.LearnerEngine`)."""

    last_refit: RefitStats | None = None  # the weights stay in this process
    _updating: int | None = None  # version of an update that has begun and not succeeded

    @property
    def weight_version(self) -> int:
        """Version given with the last complete update; 0 before the first."""
        return self._weight_version

    def stream(self, requests: Sequence[SampleRequest], params: SamplingParams) -> Iterator[tuple[int, Completion]]:
        """As the base class. Raises RuntimeError after an incomplete update, whose weights are a mixture."""
        if self._updating is not None:
            raise RuntimeError(f"the update to weight version {self._updating} is incomplete: send all weights again")
        return super().stream(requests, params)

    def update_weights(self, buckets: Iterable[Bucket], version: int) -> None:
        """Replaces every weight in place; see `LearnerEngine.update_weights`."""
        self._updating = version
        self._fill(buckets, f"weight version {version}")
        self._weight_version = version
        self._updating = None
