"""What test_rollouts_of_processes.py starts by `accelerate launch`: one JSON line.

two_processes.py OUTPUT_FOLDER ddp|fsdp2
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from accelerate import PartialState
from accelerate.utils import gather_object
from tiny import left_padded, tiny_head
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from training_runs import grpo, logged, policy
from transformers import TrainerControl, TrainerState, TrainingArguments

from eagle_hf import SpeculativeRollouts, TreeConfig

STEPS = 4
GREEDY = dict(do_sample=False, eos_token_id=None)


def callback(head: Any, **settings: Any) -> SpeculativeRollouts:
    """A callback whose head learns at every step."""
    return SpeculativeRollouts(
        head,
        tree=TreeConfig(depth=2, top_k=2, nodes=4),
        learn_share=0.9,
        **settings,
    )


def by_ddp(folder: str) -> dict[str, Any]:
    """GRPO, each process with its own prompts."""
    head = tiny_head(policy(dtype=torch.float32))
    rollouts = callback(head, measure_every=3)
    trainer = grpo(Path(folder), policy(dtype=torch.float32), [rollouts], steps=STEPS)
    trainer.train()
    return {
        "sums": gather_object([head.lm_head.weight.double().sum().item()]),
        "drafted": logged(trainer, "rollout/drafted"),
        "head_steps": sum(logged(trainer, "rollout/head_steps")),
    }


def by_fsdp2(folder: str) -> dict[str, Any]:
    """A sharded policy, which answers longer in one process than in the other."""
    process = PartialState(cpu=True)
    whole = policy().eval()
    sharded = policy().eval()
    mesh = init_device_mesh("cpu", (process.num_processes,))
    for layer in sharded.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)

    head = tiny_head(whole)
    rollouts = callback(head, measure_every=0)
    given = (TrainingArguments(folder, use_cpu=True), TrainerState(), TrainerControl())
    rollouts.on_train_begin(*given, model=sharded)
    prompt = left_padded(whole, [4 + process.process_index])
    asked = prompt | GREEDY | {"max_new_tokens": 10 + 20 * process.process_index}
    equal = []
    for _ in range(2):
        rollouts.on_step_begin(*given)
        equal.append(torch.equal(sharded.generate(**asked), whole.generate(**asked)))
        rollouts._credit = 1e9
        rollouts.on_step_end(*given)
    is_shared = sharded.model.layers[0].mlp.up_proj.weight.to_local().numel()
    figures = rollouts._figures.logs(None)
    return {
        "sums": gather_object([head.lm_head.weight.double().sum().item()]),
        "equal": gather_object(equal),
        "drafted": figures["rollout/drafted"],
        "head_steps": figures["rollout/head_steps"],
        "share": is_shared / whole.model.layers[0].mlp.up_proj.weight.numel(),
    }


def main() -> None:
    folder, how = sys.argv[1:]
    found = by_ddp(folder) if how == "ddp" else by_fsdp2(folder)
    if PartialState().is_main_process:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
