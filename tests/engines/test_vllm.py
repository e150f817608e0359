"""vLLM drafts what our chain drafts, from the same logits, and writes what the target writes.

N proposals of vLLM, K drafts of each, U draft vocabulary.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from driving import drive, need
from ours import DEPTH, Case, chains

from eagle_hf.hub.export import export_head

pytestmark = pytest.mark.engine


@dataclass
class Reply:
    """vLLM's answer and tensors for a case, as drivers/run_vllm.py leaves them."""

    case: Case
    answer: dict[str, Any]
    tensors: dict[str, torch.Tensor]


@dataclass
class Drafts:
    """Drafts [N, K] and the logits [N, K, U] that they were taken from."""

    tokens: torch.Tensor
    logits: torch.Tensor


def ask_vllm(case: Case, folder: Path, head: Path) -> Reply:
    answer, tensors = drive(
        "vllm",
        folder,
        target=case.target_folder,
        head=head,
        depth=DEPTH,
        prompts=case.prompts,
        new_tokens=case.new_tokens,
        stop=case.stop,
    )
    return Reply(case, answer, tensors)


@pytest.fixture(scope="module", params=["smollm2", "tiny_case"])
def reply(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reply:
    need("vllm")
    case = request.getfixturevalue(request.param)
    return ask_vllm(case, tmp_path_factory.mktemp("vllm"), case.head_folder)


@pytest.fixture(scope="module")
def ours(reply: Reply) -> Drafts:
    """Our chains below the texts at which vLLM drafted."""
    case = reply.case
    by_prompt = []
    for prompt, answer in zip(case.prompts, reply.answer["answers"], strict=True):
        by_prompt.append(chains(case.target, case.head, prompt, answer, DEPTH))
    tokens = []
    logits = []
    for number, known in reply.answer["proposals"]:
        drafts, scores = by_prompt[number]
        tokens.append(drafts[known - 1])  # the chain below the newest of the known tokens
        logits.append(scores[known - 1])
    return Drafts(torch.stack(tokens), torch.stack(logits))


def test_vllm_proposes_our_chain(reply, ours):
    drafts = reply.tensors["drafts"]
    same = int((drafts == ours.tokens).sum())
    print(f"{same} of {drafts.numel()} draft tokens equal")
    assert drafts.numel() >= 200
    assert same >= 0.995 * drafts.numel()


def test_vllm_drafts_from_our_logits(reply, ours):
    assert torch.equal(reply.tensors["ids"], reply.case.head.draft_to_target)
    # a chain's logits are comparable as long as the drafts before them are the same
    same = reply.tensors["drafts"] == ours.tokens  # [N, K]
    comparable = torch.ones_like(same)
    comparable[:, 1:] = same[:, :-1].cumprod(1).bool()
    distances = (reply.tensors["logits"] - ours.logits).abs().amax(-1)[comparable]
    print(f"largest difference {distances.max():.1e} in {len(distances)} rows of logits")
    assert distances.max() < 1e-3


def test_vllm_writes_what_generate_writes(reply):
    assert reply.case.differences(reply.answer["answers"]) == []


@pytest.mark.parametrize("reply", ["smollm2"], indirect=True)
def test_the_speculators_format_gets_the_same_drafts_accepted(reply, tmp_path):
    case = reply.case
    export_head(
        case.head,
        tmp_path / "speculators",
        "speculators",
        target_id=str(case.target_folder),
        target=case.target.config,
    )
    exported = ask_vllm(case, tmp_path, tmp_path / "speculators")
    accepted = exported.answer["accepted"]
    print(f"accepted by position: {accepted}, {reply.answer['accepted']} from our own format")
    assert exported.answer == reply.answer
    assert sum(accepted) > 0
