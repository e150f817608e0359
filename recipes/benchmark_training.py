"""Memory and speed of one training step, beside what the matrix products alone cost.

The step is one of a draft head on offline features. Sizes are SmolLM2-135M's: hidden 576,
vocabulary 49,152, 8,192 drafted, 2,048 tokens, 7 passes.

Speed: the limit is the time of the step's matrix products alone, at their exact shapes. They are fc
once, q, k, v, o, gate, up and down for every pass on all tokens, and the LM head for every pass on
the learnt tokens. Each counts three times: the forward, and two products for the gradients.
Attention, norms, recomputation and the optimiser do not count into the limit.

Memory: the peak of a fresh process above what it holds with weights, gradients and optimiser states
in place. The features of the batch are included.

Hardware: any.
Duration: about two minutes on 2 CPU cores.
Command:  python recipes/benchmark_training.py
Expected: the table of docs/benchmarks/index.md, and OUTPUT/metrics.json.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl import TrlParser

from eagle_hf import Eagle3Config, Eagle3DraftHead
from eagle_hf.data import write_run
from eagle_hf.target import default_device, draft_vocab_logits
from eagle_hf.training import TargetStates, ask_teacher, ttt_loss

# what each line of the table changes; a process each, because a peak does not come down
LINES = (
    (),
    ("--checkpointing",),
    ("--batch", "4", "--steps", "0"),
    ("--batch", "4", "--checkpointing", "--steps", "0"),
    ("--online",),
)


@dataclass
class TrainingBenchmarkArguments:
    """The sizes of the step, and how it is run."""

    output_dir: str = field(
        default="outputs/benchmark-training", metadata={"help": "Folder for metrics.json."}
    )
    batch: int = field(default=1, metadata={"help": "Conversations of a step."})
    length: int = field(default=2048, metadata={"help": "Tokens of each."})
    hidden: int = field(default=576, metadata={"help": "Hidden size."})
    vocabulary: int = field(default=49152, metadata={"help": "The target's tokens."})
    drafted: int = field(default=8192, metadata={"help": "Tokens that the head can propose."})
    ttt_length: int = field(default=7, metadata={"help": "Unrolled passes."})
    target_layers: int = field(default=30, metadata={"help": "Of the online run."})
    steps: int = field(default=5, metadata={"help": "Timed steps; 0: memory alone."})
    attention: str = field(default="sdpa", metadata={"help": "Attention of the head."})
    bf16: bool = field(default=False, metadata={"help": "Autocast to bfloat16."})
    checkpointing: bool = field(default=False, metadata={"help": "Recompute activations."})
    online: bool = field(
        default=False,
        metadata={"help": "The target runs in every step, and counts into the limit."},
    )
    one: bool = field(
        default=False,
        metadata={"help": "This one setting, in this process; default: the table, a process each."},
    )


class Step:
    """A head, its optimiser and a batch, every token of which is learnt."""

    def __init__(self, arguments: TrainingBenchmarkArguments):
        torch.manual_seed(0)
        self.arguments = arguments
        self.device = default_device()
        self.target = make_target(arguments).to(self.device).eval()
        self.target.requires_grad_(False)
        self.head = make_head(arguments, self.target).to(self.device).train()
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=1e-4)
        # a step with zero gradients makes the optimiser's moments, and changes nothing else
        for parameter in self.head.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.states = TargetStates(self.target, self.head.config.aux_layer_ids)
        self.held_before = held_bytes(self.device)
        self.batch = self.make_batch()

    def make_batch(self) -> dict[str, torch.Tensor]:
        """Random tokens, and offline the features of a target that read them."""
        arguments = self.arguments
        shape = (arguments.batch, arguments.length)
        ids = torch.randint(0, arguments.vocabulary, shape, device=self.device)  # [B, S]
        batch = {
            "input_ids": ids,
            "labels": ids,
            "attention_mask": torch.ones_like(ids),
            "index": torch.full((arguments.batch,), -1),
        }
        if not arguments.online:
            hidden = arguments.hidden
            batch["aux_hidden_states"] = torch.randn(*shape, 3 * hidden, device=self.device)
            batch["hidden_states"] = torch.randn(*shape, hidden, device=self.device)
            batch["best"] = torch.randint(0, arguments.drafted, shape, device=self.device)
        return batch

    def run(self) -> None:
        """One whole step: teacher, unrolled passes, loss, gradients, clipping, AdamW."""
        arguments = self.arguments
        head = self.head
        # 1) the teacher
        batch = self.batch | self.states.run_target(self.batch)
        if arguments.online:
            # a random target's argmax may lie outside the draft vocabulary
            batch["best"] = batch["best"] % arguments.drafted
        teacher_logits = draft_vocab_logits(self.target, head.draft_to_target)
        teacher = ask_teacher(batch, teacher_logits, head.draft_to_target)

        # 2) the passes and the loss
        next_ids = batch["input_ids"].roll(-1, dims=1)  # [B, S]
        embeddings = self.target.get_input_embeddings()(next_ids)  # [B, S, H]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=arguments.bf16):
            outputs = head(embeddings, batch["aux_hidden_states"], ttt_length=arguments.ttt_length)
            loss, _, _ = ttt_loss(head, outputs, teacher)

        # 3) the update
        (loss / len(teacher.best)).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 0.5)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)


def make_target(arguments: TrainingBenchmarkArguments) -> LlamaForCausalLM:
    """A random target; offline its layers do not run, so three will do."""
    config = LlamaConfig(
        num_hidden_layers=arguments.target_layers if arguments.online else 3,
        max_position_embeddings=8192,
        hidden_size=arguments.hidden,
        intermediate_size=arguments.hidden * 8 // 3,
        num_attention_heads=arguments.hidden // 64,
        num_key_value_heads=max(1, arguments.hidden // 192),
        vocab_size=arguments.vocabulary,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def make_head(arguments: TrainingBenchmarkArguments, target: LlamaForCausalLM) -> Eagle3DraftHead:
    """A random head that drafts the first tokens of the vocabulary."""
    config = Eagle3Config.from_target(target, draft_vocab_size=arguments.drafted)
    head = Eagle3DraftHead(config)
    head.set_draft_vocabulary(torch.arange(arguments.drafted))
    head.set_attn_implementation(arguments.attention)
    if arguments.checkpointing:
        head.gradient_checkpointing_enable({"use_reentrant": False})
    return head


def held_bytes(device: torch.device) -> int:
    """Bytes that this process holds: on the GPU where there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated()
    return resident_bytes("VmRSS")


def peak_bytes(device: torch.device) -> int:
    """Bytes that this process held at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    # getrusage's peak would begin with that of the process that started this one
    return resident_bytes("VmHWM")


def resident_bytes(name: str) -> int:
    """A field of /proc/self/status, which is in kB."""
    _, after = Path("/proc/self/status").read_text().split(name + ":")
    return 1024 * int(after.split()[0])


def timed_call(function: Callable[[], None]) -> float:
    """Seconds of the second of two calls; the first one warms up."""
    seconds = 0.0
    for _ in range(2):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return seconds


@dataclass
class Product:
    """A matrix product of the limit: tokens [N, I] times a weight [O, I], and its gradients."""

    states: torch.Tensor
    weight: torch.Tensor
    gradient: torch.Tensor
    times: int

    def run(self) -> None:
        """The product and both gradients, as often as a step needs them."""
        for _ in range(self.times):
            self.states @ self.weight.T  # [N, O]
            self.gradient @ self.weight  # [N, I]
            self.gradient.T @ self.states  # [O, I]


def limit_products(step: Step) -> list[Product]:
    """The matrix products that the limit counts."""
    arguments = step.arguments
    head = step.head
    attention = head.midlayer.self_attn
    mlp = head.midlayer.mlp
    tokens = arguments.batch * arguments.length
    # the last two slots of a conversation have nothing to learn
    learnt = tokens - 2 * arguments.batch
    passes = arguments.ttt_length
    counted = [
        (head.fc, tokens, 1),
        (attention.q_proj, tokens, passes),
        (attention.k_proj, tokens, passes),
        (attention.v_proj, tokens, passes),
        (attention.o_proj, tokens, passes),
        (mlp.gate_proj, tokens, passes),
        (mlp.up_proj, tokens, passes),
        (mlp.down_proj, tokens, passes),
        (head.lm_head, learnt, passes),
    ]
    dtype = torch.bfloat16 if arguments.bf16 else torch.float32
    products = []
    for module, count, times in counted:
        weight = module.weight.detach().to(dtype)  # [O, I]
        outputs, inputs = weight.shape
        states = torch.randn(count, inputs, device=step.device, dtype=dtype)
        gradient = torch.randn(count, outputs, device=step.device, dtype=dtype)
        products.append(Product(states, weight, gradient, times))
    return products


def measure(arguments: TrainingBenchmarkArguments) -> dict[str, float]:
    """Memory first; then step and limit in turn, so that a slow moment affects both."""
    step = Step(arguments)
    step.run()
    step.run()
    above = peak_bytes(step.device) - step.held_before
    result: dict[str, float] = {
        "above_state_gb": round(above / 1e9, 3),
        "before_gb": round(step.held_before / 1e9, 3),
    }
    if arguments.steps:
        result |= measure_speed(step)
    return result


def measure_speed(step: Step) -> dict[str, float]:
    """Medians of the step and of its limit."""
    arguments = step.arguments
    products = limit_products(step)

    def run_limit() -> None:
        for part in products:
            part.run()
        if arguments.online:
            step.states.run_target(step.batch)

    steps = []
    limits = []
    shares = []
    for _ in range(arguments.steps):
        step_seconds = timed_call(step.run)
        limit_seconds = timed_call(run_limit)
        steps.append(step_seconds)
        limits.append(limit_seconds)
        shares.append(limit_seconds / step_seconds)
    tokens = arguments.batch * arguments.length
    return {
        "tokens_per_second": round(tokens / statistics.median(steps)),
        "step_s": round(statistics.median(steps), 3),
        "limit_s": round(statistics.median(limits), 3),
        "share_of_limit": round(statistics.median(shares), 3),
    }


def measure_table() -> dict[str, dict[str, float]]:
    """Every line of the table, in a process of its own."""
    results = {}
    for flags in LINES:
        name = " ".join(flags) or "default"
        command = [sys.executable, __file__, "--one", *sys.argv[1:], *flags]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, results[name], flush=True)
    return results


def main() -> None:
    (arguments,) = TrlParser((TrainingBenchmarkArguments,)).parse_args_and_config()
    if arguments.one:
        print(json.dumps(measure(arguments)))
        return
    write_run(arguments.output_dir, asdict(arguments), measure_table())


if __name__ == "__main__":
    main()
