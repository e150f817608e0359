"""SGLang accepts the drafts that `generate` accepts, in chains and in trees.

Its kernels are stand-ins, see stand_ins/sglang.
"""

from typing import Any

import pytest
from driving import drive, need
from ours import DEPTH, Case

from eagle_hf import TreeConfig

pytestmark = pytest.mark.engine

TREES = {  # by SGLang's own settings: top-k, draft tokens with the root
    (1, DEPTH + 1): TreeConfig("chain", depth=DEPTH),
    (4, 8): TreeConfig("dynamic", depth=DEPTH, top_k=4, nodes=7),
}


@pytest.fixture(scope="module", params=TREES, ids=["chain", "tree"])
def reply(
    request: pytest.FixtureRequest, smollm2: Case, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TreeConfig, dict[str, Any]]:
    """(our tree, SGLang's answer) for three prompts."""
    need("sglang")
    top_k, nodes = request.param
    answer, _ = drive(
        "sglang",
        tmp_path_factory.mktemp("sglang"),
        target=smollm2.target_folder,
        head=smollm2.head_folder,
        depth=DEPTH,
        top_k=top_k,
        nodes=nodes,
        prompts=smollm2.prompts[:3],
        new_tokens=smollm2.new_tokens,
        stop=smollm2.stop,
    )
    return TREES[request.param], answer


def test_sglang_accepts_the_drafts_that_generate_accepts(reply, smollm2):
    """SGLang counts the drafts of its last round to their end.

    So ours writes as many tokens as that makes.
    """
    tree, answer = reply
    theirs = list(zip(answer["rounds"], answer["accepted"], strict=True))
    lengths = [1 + rounds + accepted for rounds, accepted in theirs]
    assert theirs == smollm2.rounds(tree, lengths)


def test_sglang_writes_what_generate_writes(reply, smollm2):
    _, answer = reply
    assert smollm2.differences(answer["answers"]) == []
