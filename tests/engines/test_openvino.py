"""OpenVINO GenAI, given target and head as optimum exports them, accepts the drafts that `generate` accepts, in chains and in trees.

Of the target it reads the layers (2, n//2, n-3) too, but what leaves them, one further than what a head is trained on. They are
found by the names of nodes, so that with the names moved by one layer it reads the right ones.
"""

import os
import re
import shutil

import pytest
from driving import drive, need, run
from environments import program
from ours import DEPTH

from eagle_hf import TreeConfig

pytestmark = pytest.mark.engine

CHAIN, TREE = TreeConfig("chain", depth=DEPTH), TreeConfig("dynamic", depth=DEPTH, top_k=4, nodes=7)
OPTIONS = {
    CHAIN: {"num_assistant_tokens": DEPTH},
    TREE: {"num_assistant_tokens": 7, "tree_depth": DEPTH, "branching_factor": 4},
}


@pytest.fixture(scope="module")
def exported(smollm2, tmp_path_factory):
    """A folder with target and head as optimum writes them, and "renamed", the target whose layers' outputs are named one layer higher."""
    need("openvino")
    folder = tmp_path_factory.mktemp("openvino")
    command = [
        program("openvino", "optimum-cli"),
        "export",
        "openvino",
        "--task",
        "text-generation-with-past",
        "--weight-format",
        "fp32",
    ]
    run("openvino", *command, "--model", smollm2.target_folder, folder / "target")
    run(
        "openvino", *command, "--trust-remote-code", "--model", smollm2.head_folder, folder / "head"
    )
    shutil.copytree(folder / "target", folder / "renamed", copy_function=os.link)
    graph = folder / "renamed" / "openvino_model.xml"
    text, count = re.subn(
        r'(?<=name="__module\.model\.layers\.)\d+(?=/aten::add/Add_1")',
        lambda match: str(int(match[0]) + 1),
        graph.read_text(),
    )
    graph.unlink()  # a hard link until here
    graph.write_text(text)
    assert count == smollm2.target.config.num_hidden_layers
    return folder


def asked(smollm2, exported, target, tree):
    """(answers, rounds and accepted drafts of each) of an exported target with the head."""
    options = OPTIONS[tree] | {"max_new_tokens": smollm2.new_tokens}
    answer, _ = drive(
        "openvino",
        exported,
        target=exported / target,
        head=exported / "head",
        options=options,
        prompts=smollm2.prompts,
    )
    return answer["answers"], [
        (len(emitted), sum(emitted) - len(emitted)) for emitted in answer["emitted"]
    ]


@pytest.mark.parametrize("tree", [CHAIN, TREE], ids=["chain", "tree"])
def test_openvino_accepts_the_drafts_that_generate_accepts(smollm2, exported, tree):
    answers, rounds = asked(smollm2, exported, "renamed", tree)
    assert rounds == smollm2.rounds(tree)
    assert smollm2.differences(answers) == []


def test_openvino_by_itself_reads_one_layer_further(smollm2, exported, monkeypatch):
    answers, rounds = asked(smollm2, exported, "target", CHAIN)
    config = smollm2.head.config
    monkeypatch.setattr(
        config,
        "eagle_hf",
        config.eagle_hf | {"aux_layer_ids": [index + 1 for index in config.aux_layer_ids]},
    )
    assert rounds == smollm2.rounds(CHAIN)
    assert smollm2.differences(answers) == []
