"""vLLM drafts what our chain drafts, from the same logits, and writes what the target alone writes."""

from dataclasses import dataclass

import pytest
import torch
from driving import drive, need
from ours import DEPTH, Case, chains

from eagle_hf.hub.export import export_head

pytestmark = pytest.mark.engine


@dataclass
class Seen:
    """vLLM's answer and tensors for a case."""

    case: Case
    answer: dict
    tensors: dict


def ask(case: Case, folder, head) -> Seen:
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
    return Seen(case, answer, tensors)


@pytest.fixture(scope="module", params=["smollm2", "tiny_case"])
def seen(request, tmp_path_factory):
    need("vllm")
    case = request.getfixturevalue(request.param)
    return ask(case, tmp_path_factory.mktemp("vllm"), case.head_folder)


@pytest.fixture(scope="module")
def ours(seen):
    """(drafts [N, K], logits [N, K, U]) of our chain below the texts at which vLLM drafted."""
    case = seen.case
    everywhere = [
        chains(case.target, case.head, *texts, DEPTH)
        for texts in zip(case.prompts, seen.answer["answers"])
    ]
    places = [(number, known - 1) for number, known in seen.answer["proposals"]]
    return tuple(
        torch.stack([everywhere[number][part][place] for number, place in places])
        for part in (0, 1)
    )


def test_vllm_proposes_our_chain(seen, ours):
    drafts = seen.tensors["drafts"]
    same = int((drafts == ours[0]).sum())
    print(f"{same} of {drafts.numel()} draft tokens equal")
    assert drafts.numel() >= 200 and same >= 0.995 * drafts.numel()


def test_vllm_drafts_from_our_logits(seen, ours):
    assert torch.equal(seen.tensors["ids"], seen.case.head.draft_to_target)
    followed = torch.cat(
        [torch.ones(len(ours[0]), 1), (seen.tensors["drafts"] == ours[0])[:, :-1].cumprod(1)], dim=1
    ).bool()
    apart = (seen.tensors["logits"] - ours[1]).abs().amax(-1)[followed]
    print(f"largest difference {apart.max():.1e} in {len(apart)} rows of logits")
    assert apart.max() < 1e-3


def test_vllm_writes_what_generate_writes(seen):
    assert seen.case.differences(seen.answer["answers"]) == []


@pytest.mark.parametrize("seen", ["smollm2"], indirect=True)
def test_the_speculators_format_gets_the_same_drafts_accepted(seen, tmp_path):
    case = seen.case
    export_head(
        case.head,
        tmp_path / "speculators",
        "speculators",
        target_id=str(case.target_folder),
        target=case.target.config,
    )
    exported = ask(case, tmp_path, tmp_path / "speculators")
    print(
        f"accepted by position: {exported.answer['accepted']}, {seen.answer['accepted']} from our own format"
    )
    assert exported.answer == seen.answer and sum(exported.answer["accepted"]) > 0
