"""Makes a tiny Qwen3 family, learner and explorer, as ordinary Hugging Face checkpoints.

The learner has about 0.9 M parameters. It is pre-trained on worked answers to sums. As in real text, a share of the
answers has a slip. So the learner often makes slips too, and RL can improve it. The explorer has about a quarter of the
size. It is distilled from the learner on the same text: its loss is the forward KL to the learner's next-token
distribution, as in Sec. 2.2 of the paper.

    python tools/make_tiny_family.py [--output models/tiny] [--seed 1] [--force]
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a clone without installation
# Read when torch is imported. On busy cores, threads that spin while they wait make a step 2 to 8 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn import functional as F

from s2l_nemo.arguments import Parser
from s2l_nemo.config.schema import ArithmeticConfig, DataConfig, RewardsConfig
from s2l_nemo.data import arithmetic
from s2l_nemo.data.prompts import load_prompts
from s2l_nemo.errors import UserError
from s2l_nemo.rewards.grader import ExactGrader, GradeItem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
# As Qwen's: splits into words, single digits and punctuation. It leaves out the rule for contractions.
WORD_PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"What is the sum of and you are a helpful system user assistant answer total \boxed + - = ? . ,"
VOCAB_SIZE = 328  # 256 bytes, three special tokens and enough merges for every word above
MAX_LENGTH = 512  # tokens of the longest sequence
MAX_ANSWER = 48  # tokens that a measurement samples; a worked answer has 26 to 33
MEASURED_TOGETHER = 64  # prompts in a batch of a measurement
THREADS = 2
FACTS = "family.json"


@dataclass(frozen=True)
class Shape:
    """The figures in which the two models of the family differ."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    head_dim: int  # as in Qwen3, it is not hidden_size / heads


@dataclass(frozen=True)
class Recipe:
    """Everything that the family depends on."""

    seed: int = 1
    digits: int = 3
    terms: int = 2
    slip_share: float = 0.4  # of the answers in pre-training
    learner: Shape = Shape(128, 384, 4, 48)
    explorer: Shape = Shape(64, 192, 4, 24)
    learner_steps: int = 550
    explorer_steps: int = 550
    batch_size: int = 32  # answers in a step
    lr: float = 3e-3
    warmup_steps: int = 40
    measured_prompts: int = 64
    measured_samples: int = 16

    def key(self) -> str:
        """A hash of recipe and code. Equal keys give equal families."""
        sources = [Path(__file__), Path(arithmetic.__file__)]
        code = b"".join(source.read_bytes() for source in sources)
        return hashlib.sha256(code + json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE, which encodes any text. Digits and the words of the task are single tokens."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*WORDS.split(), *(f" {word}" for word in WORDS.split())], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=MAX_LENGTH,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 model in fp32 with random weights from torch's global generator."""
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    config = Qwen3Config(
        **asdict(shape),
        **ids,
        vocab_size=len(tokenizer),
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        rope_theta=10000.0,
        sliding_window=None,
        tie_word_embeddings=True,
        torch_dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config = GenerationConfig(**ids, do_sample=True, temperature=1.0, top_p=1.0, top_k=0)
    return model


def text_batches(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, steps: int, seed: str
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of worked answers to training questions: tokens_BT and is_answer_BS, true on targets in an answer."""
    rng = random.Random(seed)
    for _ in range(steps):
        prompts, answers = [], []
        for _ in range(recipe.batch_size):
            terms = arithmetic.draw(rng, "train", recipe.digits, recipe.terms)
            slips = rng.random() < recipe.slip_share
            prompts.append([{"role": "user", "content": arithmetic.question_text(terms)}])
            answers.append(arithmetic.slip(rng, terms) if slips else arithmetic.worked_answer(terms))
        prompt_rows = tokenizer.apply_chat_template(prompts, add_generation_prompt=True)
        answer_rows = tokenizer([answer + tokenizer.eos_token for answer in answers])["input_ids"]
        length = max(len(prompt) + len(answer) for prompt, answer in zip(prompt_rows, answer_rows, strict=True))
        tokens_BT = torch.full((len(prompts), length), tokenizer.pad_token_id)
        is_answer_BS = torch.zeros(len(prompts), length - 1, dtype=torch.bool)
        for row, (prompt, answer) in enumerate(zip(prompt_rows, answer_rows, strict=True)):
            end = len(prompt) + len(answer)
            tokens_BT[row, :end] = torch.tensor(prompt + answer)
            is_answer_BS[row, len(prompt) - 1 : end - 1] = True
        yield tokens_BT, is_answer_BS


def answer_logits(model: Qwen3ForCausalLM, tokens_BT: torch.Tensor, is_answer_BS: torch.Tensor) -> torch.Tensor:
    """The logits [N, V] that predict the N answer tokens. Attention is causal, so right padding needs no mask."""
    logits_BTV: torch.Tensor = model(input_ids=tokens_BT, use_cache=False).logits
    return logits_BTV[:, :-1][is_answer_BS]


Loss = Callable[["Qwen3ForCausalLM", torch.Tensor, torch.Tensor], torch.Tensor]


def pretraining_loss(model: Qwen3ForCausalLM, tokens_BT: torch.Tensor, is_answer_BS: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of the answer tokens."""
    return F.cross_entropy(answer_logits(model, tokens_BT, is_answer_BS), tokens_BT[:, 1:][is_answer_BS])


def distillation_loss(teacher: Qwen3ForCausalLM) -> Loss:
    """A loss: the mean over answer tokens of the forward KL from the teacher's next-token distribution (Sec. 2.2)."""

    def loss(student: Qwen3ForCausalLM, tokens_BT: torch.Tensor, is_answer_BS: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            teacher_NV = F.log_softmax(answer_logits(teacher, tokens_BT, is_answer_BS), dim=-1)
        student_NV = F.log_softmax(answer_logits(student, tokens_BT, is_answer_BS), dim=-1)
        return F.kl_div(student_NV, teacher_NV, log_target=True, reduction="batchmean")

    return loss


def train(
    model: Qwen3ForCausalLM,
    loss: Loss,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    recipe: Recipe,
    advance: Callable[[], None],
) -> float:
    """Trains with AdamW, warm-up and linear decay. Returns the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / recipe.warmup_steps, (steps - step) / steps)
    )
    model.train()
    for tokens_BT, is_answer_BS in batches:
        value = loss(model, tokens_BT, is_answer_BS)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        advance()
    model.eval()
    return value.item()


@torch.no_grad()
def measure(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, advance: Callable[[], None]
) -> dict[str, float]:
    """pass@1 and pass@k on held-out prompts at temperature 1, with k = `recipe.measured_samples`."""
    data = DataConfig(arithmetic=ArithmeticConfig(digits=recipe.digits, terms=recipe.terms))
    prompts = load_prompts(data, tokenizer, MAX_LENGTH, "valid", recipe.measured_prompts).prompts
    grader = ExactGrader(RewardsConfig())
    torch.manual_seed(recipe.seed)
    rewards: list[list[float]] = []
    for start in range(0, len(prompts), MEASURED_TOGETHER):
        batch = prompts[start : start + MEASURED_TOGETHER]
        tokens_PT = torch.tensor([prompt.token_ids for prompt in batch])  # questions of as many digits are as long
        output_BT = model.generate(
            tokens_PT,
            attention_mask=torch.ones_like(tokens_PT),
            num_return_sequences=recipe.measured_samples,
            max_new_tokens=MAX_ANSWER,
        )
        texts = tokenizer.batch_decode(output_BT[:, tokens_PT.size(1) :], skip_special_tokens=True)
        for index, prompt in enumerate(batch):
            samples = texts[index * recipe.measured_samples : (index + 1) * recipe.measured_samples]
            items = [GradeItem(prompt.prompt_id, prompt.text, prompt.answer, text) for text in samples]
            rewards.append([grade.reward or 0.0 for grade in grader.grade(items)])
            advance()
    rewards_PK = torch.tensor(rewards)
    return {
        "pass@1": round(rewards_PK.mean().item(), 4),
        f"pass@{recipe.measured_samples}": round(rewards_PK.amax(dim=1).mean().item(), 4),
    }


def make_family(recipe: Recipe, folder: Path, progress: Progress) -> dict[str, Any]:
    """Trains both models into `folder`. Returns the content of family.json. On one machine a recipe has one result."""
    tokenizer = build_tokenizer()

    def steps(description: str, total: int) -> Callable[[], None]:
        task = progress.add_task(description, total=total)
        return lambda: progress.advance(task)

    def made(name: str, shape: Shape, loss: Loss, count: int) -> tuple[Qwen3ForCausalLM, dict[str, Any]]:
        torch.manual_seed(recipe.seed)
        model = build_model(shape, tokenizer)
        batches = text_batches(recipe, tokenizer, count, seed=f"{name}-{recipe.seed}")
        last_loss = train(model, loss, batches, count, recipe, steps(f"{name}: training steps", count))
        passes = measure(model, tokenizer, recipe, steps(f"{name}: held-out prompts", recipe.measured_prompts))
        model.save_pretrained(folder / name, safe_serialization=True)
        tokenizer.save_pretrained(folder / name)
        return model, {"parameters": model.num_parameters(), "last_loss": round(last_loss, 4), **passes}

    learner, learner_facts = made("learner", recipe.learner, pretraining_loss, recipe.learner_steps)
    _, explorer_facts = made("explorer", recipe.explorer, distillation_loss(learner), recipe.explorer_steps)
    smallest = recipe.terms * 10 ** (recipe.digits - 1)
    largest = recipe.terms * (10**recipe.digits - 1)
    return {
        "key": recipe.key(),
        "recipe": asdict(recipe),
        # the metadata of PyPI's torch lacks the "+cu130"
        "versions": {
            "torch": str(torch.__version__),
            "transformers": version("transformers"),
            "tokenizers": version("tokenizers"),
        },
        "learner": learner_facts,
        "explorer": explorer_facts,
        "chance": round(1 / (largest - smallest + 1), 6),  # of guessing one of the possible sums
    }


def publish(recipe: Recipe, output: Path, force: bool, console: Console) -> dict[str, Any]:
    """Makes the family in `output`, unless the family of this recipe is there. Returns the content of family.json.

    A new family takes its place once it is complete. Raises UserError if `output` holds something that this tool has
    not made.
    """
    facts_path = output / FACTS
    if output.exists() and not facts_path.is_file() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is no family of this tool: choose another --output or remove it")
    if facts_path.is_file() and not force:
        facts: dict[str, Any] = json.loads(facts_path.read_text())
        if facts["key"] == recipe.key():
            console.print(f"{output} is up to date; --force makes it again")
            return facts
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        with _progress(console) as progress:
            facts = make_family(recipe, new, progress)
        (new / FACTS).write_text(json.dumps(facts, indent=2) + "\n")
        if output.exists():
            output.rename(Path(scratch) / "old")
        new.rename(output)
    return facts


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser("Makes a tiny Qwen3 family, learner and explorer.")
    parser.add_argument("--output", type=Path, default=Path("models/tiny"), help="folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="of text and weights (default: %(default)s)")
    parser.add_argument("--force", action="store_true", help="make it again even if it is up to date")
    options = parser.parse_args(arguments)
    console = Console()
    torch.set_num_threads(THREADS)
    started = time.monotonic()
    try:
        facts = publish(Recipe(seed=options.seed), options.output, options.force, console)
    except (UserError, OSError) as error:
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print(f"interrupted: {options.output} is as it was")
        return 130
    for name in ("learner", "explorer"):
        shown = ", ".join(f"{key} {value}" for key, value in facts[name].items() if key.startswith("pass@"))
        console.print(f"{options.output / name}: {facts[name]['parameters']:,} parameters, {shown}")
    console.print(f"chance {facts['chance']}, {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
