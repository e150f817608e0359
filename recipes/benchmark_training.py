"""Memory and speed of one training step of a draft head on offline features, beside what the matrix products alone cost.

Hardware: any; 2 CPU cores take about two minutes. Command: python recipes/benchmark_training.py
Expected: the README's table. Sizes are SmolLM2-135M's (hidden 576, vocabulary 49,152, 8,192 drafted, 2,048 tokens, 7 passes).

Speed: the limit is the time of the step's matrix products alone, at their exact shapes: fc once, q, k, v, o, gate, up and
down for every pass on all rows, the LM head for every pass on the learnt rows, each three times (forward, and two for
the gradients). Attention, norms, recomputation and the optimiser do not count into it.
Memory: the peak of a fresh process above what it holds with weights, gradients and optimiser states in place; the features
of the batch are included.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from eagle_hf import Eagle3Config, Eagle3DraftHead
from eagle_hf.target import draft_rows
from eagle_hf.training.batches import TargetStates
from eagle_hf.training.loss import ask_teacher, ttt_loss


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--drafted", type=int, default=8192)
    parser.add_argument("--ttt_length", type=int, default=7)
    parser.add_argument("--target_layers", type=int, default=30, help="of the online run")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--attention", default="sdpa")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument(
        "--online",
        action="store_true",
        help="the target runs in every step, and counts into the limit",
    )
    parser.add_argument(
        "--one",
        action="store_true",
        help="this one setting, in this process; default: the table, a process each",
    )
    return parser.parse_args()


class Step:
    """A head, its optimiser and a batch, every token of which is learnt."""

    def __init__(self, options):
        torch.manual_seed(0)
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        shape = dict(
            hidden_size=options.hidden,
            intermediate_size=options.hidden * 8 // 3,
            num_attention_heads=options.hidden // 64,
        )
        shape |= dict(
            num_key_value_heads=max(1, options.hidden // 192),
            vocab_size=options.vocabulary,
            tie_word_embeddings=True,
        )
        layers = options.target_layers if options.online else 3
        self.target = (
            LlamaForCausalLM(
                LlamaConfig(num_hidden_layers=layers, max_position_embeddings=8192, **shape)
            )
            .to(self.device)
            .eval()
        )
        self.target.requires_grad_(False)
        self.head = (
            Eagle3DraftHead(Eagle3Config.from_target(self.target, draft_vocab_size=options.drafted))
            .to(self.device)
            .train()
        )
        self.head.set_draft_vocabulary(torch.arange(options.drafted))
        self.head.set_attn_implementation(options.attention)
        if options.checkpointing:
            self.head.gradient_checkpointing_enable({"use_reentrant": False})
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=1e-4)
        for parameter in self.head.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()  # with zero gradients: only the moments come into being
        self.states = TargetStates(self.target, self.head.config.aux_layer_ids)
        self.before = memory(self.device)
        self.batch = self.make_batch()

    def make_batch(self):
        options, place = self.options, dict(device=self.device)
        ids = torch.randint(0, options.vocabulary, (options.batch, options.length), **place)
        batch = {
            "input_ids": ids,
            "labels": ids,
            "attention_mask": torch.ones_like(ids),
            "index": torch.full((options.batch,), -1),
        }
        if not options.online:
            batch["aux_hidden_states"] = torch.randn(*ids.shape, 3 * options.hidden, **place)
            batch["hidden_states"] = torch.randn(*ids.shape, options.hidden, **place)
            batch["best"] = torch.randint(0, options.drafted, ids.shape, **place)
        return batch

    def run(self):
        """One whole step: teacher, unrolled passes, loss, gradients, clipping, AdamW."""
        batch, head = self.batch | self.states(self.batch), self.head
        if self.options.online:
            batch["best"] = (
                batch["best"] % self.options.drafted
            )  # a random target's argmax is anywhere
        teacher = ask_teacher(
            batch, draft_rows(self.target, head.draft_to_target), head.draft_to_target
        )
        embeddings = self.target.get_input_embeddings()(batch["input_ids"].roll(-1, dims=1))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.options.bf16):
            outputs = head(
                embeddings, batch["aux_hidden_states"], ttt_length=self.options.ttt_length
            )
            loss, _, _ = ttt_loss(head, outputs, teacher)
        (loss / len(teacher.best)).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 0.5)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)


def memory(device, peak: bool = False) -> int:
    """Bytes this process holds, or held at most: on the GPU where there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
    field = (
        "VmHWM" if peak else "VmRSS"
    )  # not getrusage's peak: a child begins with that of the process that started it
    return 1024 * int(Path("/proc/self/status").read_text().split(field + ":")[1].split()[0])


def timed(function, repeats: int) -> list[float]:
    """Seconds of each call, the first one not counted."""
    seconds = []
    for _ in range(repeats + 1):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[1:]


def products(step: Step):
    """A function that runs the matrix products of the limit once."""
    options, head, rows = step.options, step.head, step.options.batch * step.options.length
    layer, dtype = head.midlayer, torch.bfloat16 if options.bf16 else torch.float32
    per_pass = [
        layer.self_attn.q_proj,
        layer.self_attn.k_proj,
        layer.self_attn.v_proj,
        layer.self_attn.o_proj,
    ]
    per_pass += [layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj]
    counted = [(head.fc, rows, 1)] + [(module, rows, options.ttt_length) for module in per_pass]
    counted += [(head.lm_head, rows - 2 * options.batch, options.ttt_length)]
    place = dict(device=step.device, dtype=dtype)
    operands = []
    for module, tokens, times in counted:
        weight = module.weight.detach().to(dtype)
        operands.append(
            (
                torch.randn(tokens, weight.shape[1], **place),
                weight,
                torch.randn(tokens, weight.shape[0], **place),
                times,
            )
        )

    def run():
        for states, weight, gradient, times in operands:
            for _ in range(times):
                states @ weight.T
                gradient @ weight
                gradient.T @ states
        if options.online:
            step.states(step.batch)

    return run


def measure(options) -> dict:
    """Memory first, then the step and the limit in turn, so that a slow moment of the machine hits both."""
    step = Step(options)
    step.run()
    step.run()
    above = memory(step.device, peak=True) - step.before
    result = {"above_state_gb": round(above / 1e9, 3), "before_gb": round(step.before / 1e9, 3)}
    if options.steps:
        limit, pairs = products(step), []
        for _ in range(options.steps):
            pairs.append((timed(step.run, 1)[0], timed(limit, 1)[0]))
        steps, limits = zip(*pairs)
        result |= {
            "tokens_per_second": round(options.batch * options.length / statistics.median(steps)),
            "step_s": round(statistics.median(steps), 3),
            "limit_s": round(statistics.median(limits), 3),
            "share_of_limit": round(statistics.median(b / a for a, b in pairs), 3),
        }
    return result


ROWS = [
    [],
    ["--checkpointing"],
    ["--batch", "4", "--steps", "0"],
    ["--batch", "4", "--checkpointing", "--steps", "0"],
    ["--online"],
]


def main():
    options = parse()
    if options.one:
        print(json.dumps(measure(options)))
        return
    results = {}
    for row in ROWS:  # a process each: peaks do not come down
        command = [sys.executable, __file__, "--one", *sys.argv[1:], *row]
        results[" ".join(row) or "default"] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
        print(" ".join(row) or "default", results[" ".join(row) or "default"], flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
