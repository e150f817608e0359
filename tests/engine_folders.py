"""Files as vLLM's connector leaves them, computed by transformers.

tests/engines/test_vllm_states.py holds that vLLM's own look the same.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel


@torch.no_grad()
def states_between_layers(target: PreTrainedModel, ids: list[int]) -> list[torch.Tensor]:
    """States [S, H] after 0, 1, ... n layers; the last before the final norm."""
    decoder = target.get_decoder()
    outputs = []

    def keep(module, args, output):
        outputs.append(output[0] if isinstance(output, tuple) else output)

    def keep_input(module, args):
        outputs.append(args[0])

    handles = [layer.register_forward_hook(keep) for layer in decoder.layers]
    handles.append(decoder.layers[0].register_forward_pre_hook(keep_input))
    decoder(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return [output[0] for output in outputs]


def engine_tensors(
    target: PreTrainedModel, ids: list[int], state_ids: list[int]
) -> dict[str, torch.Tensor]:
    """What vLLM writes of a text when it is asked for these states."""
    states = states_between_layers(target, ids)
    chosen = [states[state_id] for state_id in sorted(set(state_ids))]
    return {"token_ids": torch.tensor(ids), "hidden_states": torch.stack(chosen, dim=1)}


def play_the_engine(target: PreTrainedModel, folder: Path) -> list[Path]:
    """Write the states that a request asks for; the files, in the order of the request."""
    manifest = json.loads((folder / "manifest.json").read_text())
    paths = []
    for line in (folder / "tokens.jsonl").read_text().splitlines():
        text = json.loads(line)
        path = folder / "states" / f"{text['name']}.safetensors"
        save_file(engine_tensors(target, text["token_ids"], manifest["state_ids"]), path)
        paths.append(path)
    return paths
