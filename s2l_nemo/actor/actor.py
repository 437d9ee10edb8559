"""The learner as a NeMo-Aligner actor: MegatronGPTModel with tensor, pipeline and data parallelism.

Its interface is that of NeMo-Aligner's REINFORCE and PPO actors (`megatron_gpt_reinforce_actor.py`). Rollout engines
generate, so `infer` gives log-probs, not text.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.pipeline_parallel.schedules import get_forward_backward_func
from nemo.collections.nlp.models.language_modeling.megatron_gpt_model import MegatronGPTModel
from nemo.collections.nlp.parts.mixins.nlp_adapter_mixins import NLPAdapterModelMixin
from nemo_aligner.models.alignable_interface import AlignableGenerativeInterface
from nemo_aligner.utils.train_utils import (
    grad_reductions,
    prepare_for_training_step,
    prepare_for_validation_step,
    set_sync_funcs,
    set_train,
)
from nemo_aligner.utils.utils import cpu_weight_swap, retrieve_model_state_dict_in_cpu
from omegaconf import DictConfig, OmegaConf

from s2l_nemo.actor import checkpoint, export
from s2l_nemo.actor.layers import block_spec
from s2l_nemo.actor.offload import Offload
from s2l_nemo.actor.packed_model import PackedGPTModel
from s2l_nemo.actor.tokenizer import LocalTokenizer, tokenizer_folder
from s2l_nemo.actor.weights import export_hugging_face, load_weights
from s2l_nemo.algorithm.losses.aggregation import LossScale
from s2l_nemo.algorithm.losses.policy import PolicyLoss
from s2l_nemo.algorithm.packing import PackedRows, cut, pack
from s2l_nemo.models.checkpoints.checkpoint import Checkpoint
from s2l_nemo.models.frequencies import inverse_frequencies
from s2l_nemo.models.nemo_config import rope_scaling_from_nemo
from s2l_nemo.models.open import Model
from s2l_nemo.models.shape import ModelShape
from s2l_nemo.types import TrainBatch

LossFunction = Callable[..., Any]


class S2LActor(NLPAdapterModelMixin, MegatronGPTModel, AlignableGenerativeInterface):  # type: ignore[misc]  # untyped
    """GRPO actor over batches of mixed groups. All methods are collective: every rank of the actor calls them."""

    def __init__(self, cfg: DictConfig, trainer: Any) -> None:
        super().__init__(cfg, trainer=trainer)
        self.automatic_optimization = False
        self.initial_weights: dict[str, Any] | None = None
        self.origin: Checkpoint | None = None  # where the weights came from
        self.offload_optimizer = False
        self.offload: Offload | None = None  # of weights and gradients, if the config asks for it
        self.refit_bucket_bytes = 256 * 2**20
        self.micro_batch_tokens: int | None = None  # instead of micro_batch_size rows

    def model_provider_func(self, pre_process: bool, post_process: bool) -> GPTModel:
        """Builds this stage. NeMo's own spec needs Transformer Engine, and drops q/k norms without a word."""
        layers = self.cfg.num_layers // self.cfg.pipeline_model_parallel_size
        self.transformer_config.variable_seq_lengths = True  # of the micro-batches, between stages
        model = PackedGPTModel(
            config=self.transformer_config,
            transformer_layer_spec=block_spec(self.cfg.transformer_engine, layers, self.cfg.qk_layernorm),
            vocab_size=self.cfg.override_vocab_size,
            max_sequence_length=self.cfg.encoder_seq_length,
            pre_process=pre_process,
            post_process=post_process,
            parallel_output=True,
            share_embeddings_and_output_weights=self.cfg.share_embeddings_and_output_weights,
            position_embedding_type="rope",
            rotary_base=self.cfg.rotary_base,
        )
        settings: Any = OmegaConf.to_container(self.cfg)
        scaling = rope_scaling_from_nemo(Path("model"), settings)
        rotary = model.rotary_pos_emb
        rotary.inv_freq = inverse_frequencies(self.cfg.kv_channels, self.cfg.rotary_base, scaling).to(rotary.inv_freq)
        names = [name for name, _ in model.named_parameters()]
        assert any("q_layernorm" in name for name in names) == self.cfg.qk_layernorm, "the layer spec lost q/k norms"
        assert any("qkv.bias" in name for name in names) == self.cfg.qkv_bias, "the layer spec lost biases"
        return model

    def _build_tokenizer(self) -> None:
        """Loads the tokenizer without remote code. NeMo's own way would run the code that InternLM2.5's files name."""
        folder = tokenizer_folder(self._cfg.tokenizer.type)
        if folder is None:
            super()._build_tokenizer()
        else:
            self.tokenizer = LocalTokenizer(str(folder))

    # ---- training -------------------------------------------------------------------------------------------------

    def prepare_for_training(self) -> None:
        """Called before a phase of updates: brings offloaded optimizer states back to the device."""
        self._restore_memory()
        set_train(self)
        if self.offload_optimizer:
            self._move_optimizer_states(torch.device(torch.cuda.current_device()))

    def prepare_for_training_step(self) -> None:
        prepare_for_training_step(self, zero_grad=True)

    def get_loss_and_metrics(
        self, batch: TrainBatch, loss: PolicyLoss, scale: LossScale, temperature: float, forward_only: bool = False
    ) -> dict[str, float]:
        """Forward and backward over this rank's rows of a mini-batch. It leaves gradients in Megatron's buffers.

        Returns the sums of `PolicyLoss` and `loss_sum`, over the whole mini-batch, on every rank. If the batch has no
        old log-probs, this pass gives them, and `entropy_sum` too: nobody has computed them ahead.
        """
        micro_batches = self._micro_batches(batch)
        # Megatron divides by the number of micro-batches and averages gradients over data parallelism. The loss is
        # already divided by global counts, so both are undone here.
        undo = len(micro_batches) * parallel_state.get_data_parallel_world_size()

        def loss_of(rows: TrainBatch, packed: PackedRows) -> LossFunction:
            def loss_function(figures_2M: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
                logprobs_BS, entropy_BS = packed.unpack(figures_2M, rows.mask_BS.shape)
                value, sums = loss(logprobs_BS, rows, scale, entropy_BS)
                if rows.old_logprobs_BS is None:
                    sums["entropy_sum"] = entropy_BS.detach().double().sum()
                return value * undo, {**sums, "loss_sum": value.detach().double()}

            return loss_function

        rows_of = [batch.select(rows) for rows in micro_batches]
        per_micro_batch = self._run(
            rows_of, temperature, loss_of, forward_only=forward_only, entropy_gradient=loss.entropy_coef > 0
        )
        return self._reduce(per_micro_batch)

    def finish_training_step(self) -> None:
        grad_reductions(self)

    def optimizer_step(self, loss: float) -> dict[str, float]:
        """Clips, steps optimizer and learning-rate scheduler. Returns `grad_norm` (before clipping), `lr`, `skipped`.

        If `loss` or a gradient is not finite on any rank, all ranks leave weights and optimizer as they are, and
        `skipped` is 1. The scheduler still steps: the rate depends on the number of updates alone.
        """
        optimizer, scheduler = self.optimizer_and_scheduler()
        lr = optimizer.param_groups[0]["lr"]
        optimizer.mcore_optimizer.prepare_grads()  # `step` does it again, and computes the norm again, from the same
        grad_norm = float(optimizer.mcore_optimizer.get_grad_norm())
        finite = self._on_every_rank(math.isfinite(loss) and math.isfinite(grad_norm))
        if finite:
            optimizer.step()
        scheduler.step()
        return {"grad_norm": grad_norm, "lr": float(lr), "skipped": float(not finite)}

    def _on_every_rank(self, holds: bool) -> bool:
        """Whether something holds on all ranks, those of other replicas included. Collective."""
        failing = torch.tensor([float(not holds)], device=self.device)
        torch.distributed.all_reduce(failing, op=torch.distributed.ReduceOp.MAX)
        return failing.item() == 0.0

    def finish_training(self) -> None:
        """Called after a phase of updates: moves the optimizer states to host memory if the config asks for it."""
        self._offload_optimizer_states()

    def _offload_optimizer_states(self) -> None:
        if self.offload_optimizer:
            self._move_optimizer_states(torch.device("cpu"))
            torch.cuda.empty_cache()

    def _move_optimizer_states(self, device: torch.device) -> None:
        optimizer, _ = self.optimizer_and_scheduler()
        for inner in optimizer.mcore_optimizer.chained_optimizers:
            for state in inner.optimizer.state.values():
                for name in ("exp_avg", "exp_avg_sq"):
                    state[name].data = state[name].data.to(device, non_blocking=False)

    def optimizer_and_scheduler(self) -> tuple[Any, Any]:
        return self.optimizers().optimizer, self.lr_schedulers()

    # ---- inference ------------------------------------------------------------------------------------------------

    def release_memory(self) -> None:
        """Called before engines generate. Whatever needs the weights next takes the memory back by itself."""
        if self.offload is not None:
            self.offload.release()

    def release_cache(self) -> None:
        """Gives back what PyTorch's allocator keeps of earlier phases. Tensors in circles are found first."""
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()

    def _restore_memory(self) -> None:
        if self.offload is not None:
            self.offload.restore()

    def prepare_for_inference(self) -> None:
        self._restore_memory()
        prepare_for_validation_step(self)

    @torch.no_grad()
    def infer(self, batch: TrainBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs [B, S] of the response tokens and entropy [B, S] in nats, on every rank of the pipeline."""

        def outputs_of(rows: TrainBatch, packed: PackedRows) -> LossFunction:
            def outputs(figures_2M: torch.Tensor, non_loss_data: bool = True) -> torch.Tensor:  # noqa: ARG001  Megatron's
                return packed.unpack(figures_2M, rows.mask_BS.shape)

            return outputs

        micro_batches = self._micro_batches(batch)
        rows_of = [batch.select(rows) for rows in micro_batches]
        per_micro_batch = self._run(rows_of, temperature, outputs_of, forward_only=True, collect_non_loss_data=True)
        out_2BS = torch.empty((2, *batch.mask_BS.shape), dtype=torch.float32, device=batch.mask_BS.device)
        for rows, values_2bS in zip(micro_batches, per_micro_batch, strict=False):  # only the last stage has values
            out_2BS[:, rows] = values_2bS
        self._broadcast_from_last_stage(out_2BS)
        return out_2BS[0], out_2BS[1]

    def finish_inference(self) -> None:
        set_train(self)

    def keep_initial_policy(self) -> None:
        """Remembers the present weights, in host memory, as the reference policy."""
        self.initial_weights = retrieve_model_state_dict_in_cpu(self, megatron_amp_O2=self.megatron_amp_O2)

    def get_init_policy_logprobs(self, batch: TrainBatch, temperature: float) -> torch.Tensor:
        """Log-probs [B, S] under the reference policy, whose weights are swapped in for the call."""
        assert self.initial_weights is not None, "the actor was built without a reference policy"
        with cpu_weight_swap(self, self.initial_weights, megatron_amp_O2=self.megatron_amp_O2):
            return self.infer(batch, temperature)[0]

    # ---- weights --------------------------------------------------------------------------------------------------

    def parameters_by_name(self) -> dict[str, torch.nn.Parameter]:
        """This stage's parameters under Megatron-core's names, without the names of wrappers."""
        module = self.model[0]
        while not isinstance(module, GPTModel):
            module = module.module
        return dict(module.named_parameters())

    @property
    def shape(self) -> ModelShape:
        """The figures of the model, once its weights are loaded."""
        return self._loaded.shape

    @property
    def _loaded(self) -> Checkpoint:
        assert self.origin is not None, "no weights have been loaded"
        return self.origin

    @property
    def weight_dtype(self) -> torch.dtype:
        return next(iter(self.parameters_by_name().values())).dtype

    @torch.no_grad()
    def weights_are_finite(self) -> bool:
        """Whether every weight of every rank is a finite number. Collective."""
        self._restore_memory()
        largest = torch.nn.utils.get_total_norm(self.parameters_by_name().values(), math.inf)
        return self._on_every_rank(bool(largest.isfinite()))

    def load_weights(self, model: Model) -> None:
        """Fills every shard from a model of any format, and the optimizer's master weights too."""
        self.origin = model.checkpoint
        load_weights(self.origin, self.parameters_by_name())
        optimizer, _ = self.optimizer_and_scheduler()
        optimizer.mcore_optimizer.reload_model_params()

    def export_weights(self) -> Iterator[dict[str, torch.Tensor]]:
        """Full tensors under the Hugging Face names that engines know, in buckets, on every rank."""
        return self._export(self.shape.engine_family)

    def _export(self, family: str) -> Iterator[dict[str, torch.Tensor]]:
        self._restore_memory()
        parameters, dtype = self.parameters_by_name(), self.weight_dtype
        return export_hugging_face(parameters, self.shape, family, self.refit_bucket_bytes, dtype)

    def save(self, folder: Path, trainer_state: dict[str, Any]) -> None:
        """Writes a checkpoint to go on from (see `checkpoint.save`), which `model.path` may name too."""
        self._restore_memory()
        checkpoint.save(self, folder, trainer_state)
        if torch.distributed.get_rank() == 0:
            export.write_hugging_face_files(folder, self._loaded)

    def load(self, folder: Path) -> dict[str, Any]:
        """Restores a checkpoint and returns its trainer state (see `checkpoint.load`).

        It comes on the device, the optimizer states too, which leave it if the config asks for it.
        """
        self._restore_memory()
        state = checkpoint.load(self, folder)
        self._offload_optimizer_states()
        return state

    def save_nemo(self, path: Path) -> None:
        """Writes weights, model configuration and tokenizer as a `.nemo` file: all that `model.path` needs."""
        self._restore_memory()
        self.save_to(str(path))
        if torch.distributed.get_rank() == 0:
            export.add_hugging_face_files(path, self._loaded)
        torch.distributed.barrier()

    def save_hugging_face(self, path: Path) -> None:
        """Writes a Hugging Face folder under the model's own names (see `export.save_hugging_face`)."""
        export.save_hugging_face(self._export(self.shape.family), self._loaded, self.weight_dtype, path)

    # ---- data parallelism -----------------------------------------------------------------------------------------

    def data_parallel(self) -> tuple[int, int]:
        return parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()

    def sum_over_replicas(self, values: Mapping[str, float]) -> dict[str, float]:
        """Sums of scalars over the data-parallel ranks, on each of them."""
        totals = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(totals, group=parallel_state.get_data_parallel_group())
        return dict(zip(values, totals.tolist(), strict=True))

    # ---- Megatron's schedules -------------------------------------------------------------------------------------

    def _micro_batches(self, batch: TrainBatch) -> list[list[int]]:
        return cut(batch, rows=self.cfg.micro_batch_size, tokens=self.micro_batch_tokens)

    def _run(
        self,
        micro_batches: Sequence[TrainBatch],
        temperature: float,
        loss_of: Callable[[TrainBatch, PackedRows], LossFunction],
        *,
        forward_only: bool,
        entropy_gradient: bool = False,
        collect_non_loss_data: bool = False,
    ) -> list[Any]:
        """One pass of Megatron's pipeline schedule over the micro-batches."""
        set_sync_funcs(self, forward_only)

        def forward_step(rest: Iterator[TrainBatch], model: Any) -> tuple[torch.Tensor, LossFunction]:
            rows = next(rest)
            packed = pack(rows, multiple_of=self.cfg.tensor_model_parallel_size)
            return model(packed, temperature, entropy_gradient), loss_of(rows, packed)

        outputs: list[Any] = get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter(micro_batches),
            model=self.model,
            num_microbatches=len(micro_batches),
            forward_only=forward_only,
            seq_length=1,  # not used: stages tell each other the length of each micro-batch
            micro_batch_size=1,
            collect_non_loss_data=collect_non_loss_data,
        )
        return outputs

    def _broadcast_from_last_stage(self, tensor: torch.Tensor) -> None:
        group = parallel_state.get_pipeline_model_parallel_group()
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        torch.distributed.broadcast(tensor, last, group=group)

    def _reduce(self, per_micro_batch: list[dict[str, torch.Tensor]]) -> dict[str, float]:
        """Sums over micro-batches and data-parallel ranks on the last stage, then tells the other stages."""
        names: list[Any] = [sorted(per_micro_batch[0]) if per_micro_batch else None]
        group = parallel_state.get_pipeline_model_parallel_group()
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        torch.distributed.broadcast_object_list(names, last, group=group)
        totals = torch.zeros(len(names[0]), dtype=torch.float64, device=self.device)
        for sums in per_micro_batch:
            totals += torch.stack([sums[name] for name in names[0]])
        torch.distributed.all_reduce(totals, group=parallel_state.get_data_parallel_group())
        torch.distributed.broadcast(totals, last, group=group)
        return dict(zip(names[0], totals.tolist(), strict=True))
