"""OpenVINO GenAI accepts the drafts that `generate` accepts, in chains and in trees.

It gets target and head as optimum exports them. Of the target it captures the layers
(2, n//2, n-3) too, but what leaves them: one layer further than a head is trained on. It finds them
by the names of nodes, so that it captures the right ones once the names are moved by one layer.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from driving import drive, need, run
from environments import program
from ours import DEPTH, Case

from eagle_hf import TreeConfig

pytestmark = pytest.mark.engine

CHAIN = TreeConfig("chain", depth=DEPTH)
TREE = TreeConfig("dynamic", depth=DEPTH, top_k=4, nodes=7)
OPTIONS = {
    CHAIN: {"num_assistant_tokens": DEPTH},
    TREE: {"num_assistant_tokens": 7, "tree_depth": DEPTH, "branching_factor": 4},
}


@pytest.fixture(scope="module")
def exported(smollm2: Case, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with "target" and "head" as optimum writes them, and "renamed".

    "renamed" is the target again. The outputs of its layers are named one layer higher.
    """
    need("openvino")
    folder = tmp_path_factory.mktemp("openvino")
    command = [program("openvino", "optimum-cli"), "export", "openvino"]
    command += ["--task", "text-generation-with-past", "--weight-format", "fp32"]
    run("openvino", *command, "--model", smollm2.target_folder, folder / "target")
    command += ["--trust-remote-code"]
    run("openvino", *command, "--model", smollm2.head_folder, folder / "head")
    shutil.copytree(folder / "target", folder / "renamed", copy_function=os.link)
    count = move_names(folder / "renamed" / "openvino_model.xml")
    assert count == smollm2.target.config.num_hidden_layers
    return folder


def move_names(graph: Path) -> int:
    """Name the output of every layer one layer higher. Return how many there are."""

    def next_layer(match: re.Match) -> str:
        return str(int(match[0]) + 1)

    text, count = re.subn(
        r'(?<=name="__module\.model\.layers\.)\d+(?=/aten::add/Add_1")',
        next_layer,
        graph.read_text(),
    )
    graph.unlink()  # a hard link until here: writing through it would change the original
    graph.write_text(text)
    return count


def ask_openvino(
    smollm2: Case, exported: Path, target: str, tree: TreeConfig
) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """(answers, (rounds, accepted drafts) of each) of an exported target with the head."""
    options: dict[str, Any] = {**OPTIONS[tree], "max_new_tokens": smollm2.new_tokens}
    answer, _ = drive(
        "openvino",
        exported,
        target=exported / target,
        head=exported / "head",
        options=options,
        prompts=smollm2.prompts,
    )
    rounds = []
    for emitted in answer["emitted"]:
        accepted = sum(emitted) - len(emitted)  # each round emits one bonus token
        rounds.append((len(emitted), accepted))
    return answer["answers"], rounds


@pytest.mark.parametrize("tree", [CHAIN, TREE], ids=["chain", "tree"])
def test_openvino_accepts_the_drafts_that_generate_accepts(smollm2, exported, tree):
    answers, rounds = ask_openvino(smollm2, exported, "renamed", tree)
    assert rounds == smollm2.rounds(tree)
    assert smollm2.differences(answers) == []


def test_openvino_by_itself_captures_one_layer_further(smollm2, exported, monkeypatch):
    answers, rounds = ask_openvino(smollm2, exported, "target", CHAIN)
    config = smollm2.head.config
    further = {"aux_layer_ids": [index + 1 for index in config.aux_layer_ids]}
    monkeypatch.setattr(config, "eagle_hf", config.eagle_hf | further)
    assert rounds == smollm2.rounds(CHAIN)
    assert smollm2.differences(answers) == []
