"""What the engines are asked: SmolLM2 with a trained head, and a tiny random target with another.

The second head is trained in a hurry.
"""

from pathlib import Path

import pytest
import torch
from ours import Case
from tiny import quickly_trained, tiny_head, tiny_target

from eagle_hf import Eagle3DraftHead, load_target
from eagle_hf.data.prompts.suites import first_turn_ids, load_suite
from eagle_hf.target.gguf import resolve

TRAINED = Path(__file__).parents[2] / "model_cards" / "smollm2-135m-instruct-eagle3"


@pytest.fixture(scope="session")
def smollm2() -> Case:
    target, tokenizer = load_target("smollm2", dtype=torch.float32)
    head = Eagle3DraftHead.from_pretrained(TRAINED, dtype=torch.float32)
    prompts = []
    for prompt in load_suite(per_category=2)[:5]:
        prompts.append(first_turn_ids(tokenizer, prompt)["input_ids"][0].tolist())
    return Case(target, Path(resolve("smollm2")), head, TRAINED, prompts, new_tokens=48)


@pytest.fixture(scope="session")
def tiny_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A target of eight layers: with fewer, the three aux hidden states are no longer three.

    Its heads are as wide as the engines' kernels want them.
    """
    folder = tmp_path_factory.mktemp("tiny")
    target = tiny_target(
        layers=8, dtype=torch.float32, hidden_size=128, intermediate_size=256, initializer_range=0.1
    )
    head = quickly_trained(target, tiny_head(target))
    target.save_pretrained(folder / "target")
    head.save_pretrained(folder / "head")
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, target.config.vocab_size, (8, 6), generator=generator).tolist()
    return Case(target, folder / "target", head, folder / "head", prompts, new_tokens=48)
