"""The text of a probe: random prompts and trees, and what plain `generate` says of them.

B rows, S prompt slots, N nodes, V vocabulary. Every row has two trees of one shape, the second one
behind a branch of the first. By the numbers of its nodes:

    0 -+- 1 --- 3 --- 7        depth 0: 0, depth 1: 1 2, depth 2: 3 4 5, depth 3: 6 7
       +- 2 -+- 4
             +- 5 --- 6
"""

from dataclasses import dataclass

import torch
from transformers import LogitsProcessor, PreTrainedConfig

from eagle_hf.decoding.tree import Tree
from eagle_hf.target import ordinary_ids
from eagle_hf.target.miniature import SPECIAL_IDS, VOCABULARY

CPU = torch.device("cpu")  # also where the caller's default is another
PARENTS = (0, 0, 0, 1, 2, 2, 5, 3)
DEPTHS = (0, 1, 1, 2, 2, 2, 3, 3)
LEVELS = ((1, 2), (3, 4, 5), (6, 7))  # the nodes below the root, by depth
BRANCHES = ((0, 1, 3, 7), (0, 2, 4), (0, 2, 5, 6))
KEPT = ((0, 2, 5, 6), (0, 1))  # what each row commits of its first tree
LENGTHS = (20, 15)  # tokens of the prompts, several windows of a miniature
PADDING = 0  # an id


@dataclass(frozen=True)
class Line:
    """A branch as a text.

    Attributes:
        turn: 0 for a branch of the first tree, 1 for one of the second.
        row: of which prompt.
        branch: the nodes.
        tokens: ids from the end of the prompt to the end of the branch.
    """

    turn: int
    row: int
    branch: tuple[int, ...]
    tokens: list[int]


@dataclass(frozen=True)
class Text:
    """Random prompts and trees.

    Attributes:
        prompts: ids [B, S], padded on the left.
        mask: their attention mask [B, S].
        nodes: ids [2, B, N] of the trees' nodes.
    """

    prompts: torch.Tensor
    mask: torch.Tensor
    nodes: torch.Tensor

    @classmethod
    def random(cls, config: PreTrainedConfig, device: torch.device) -> "Text":
        """The same text at every call; the caller's random state is left alone."""
        generator = torch.Generator(CPU).manual_seed(0)
        slots = max(LENGTHS)
        size = (len(LENGTHS), slots + 2 * len(PARENTS))
        ids = torch.tensor(_text_ids(config), device=CPU)
        ids = ids[torch.randint(len(ids), size, generator=generator, device=CPU)]
        mask = torch.ones(len(LENGTHS), slots, dtype=torch.long, device=CPU)
        for row, length in enumerate(LENGTHS):
            mask[row, : slots - length] = 0
        prompts = ids[:, :slots].masked_fill(mask == 0, PADDING)
        nodes = ids[:, slots:].view(len(LENGTHS), 2, -1).transpose(0, 1)
        return cls(prompts.to(device), mask.to(device), nodes.to(device))

    def tree(self, turn: int) -> Tree:
        """The first or the second tree of every row."""
        tokens = self.nodes[turn]
        shape = torch.tensor([PARENTS, DEPTHS], device=tokens.device)
        parents, depths = shape[:, None].expand(-1, len(tokens), -1)
        return Tree(tokens, parents, depths)

    def lines(self) -> list[Line]:
        """Every branch of every tree as a text."""
        nodes = self.nodes.tolist()
        lines = []
        for turn, rows in enumerate(nodes):
            for row, ids in enumerate(rows):
                before = [nodes[0][row][node] for node in KEPT[row]] if turn else []
                for branch in BRANCHES:
                    tokens = before + [ids[node] for node in branch]
                    lines.append(Line(turn, row, branch, tokens))
        return lines


def _text_ids(config: PreTrainedConfig) -> list[int]:
    """Ordinary ids among a vocabulary's first ones, which a miniature has, too."""
    ordinary = ordinary_ids(config)
    first = [token for token in ordinary if SPECIAL_IDS <= token < VOCABULARY]
    return first or ordinary


def plain_logits(model, text: Text, lines: list[Line]) -> list[torch.Tensor]:
    """The logits [n, V] at the n nodes of each line's branch, as plain generate computes them."""
    rows = [line.row for line in lines]
    steps = max(len(line.tokens) for line in lines) + 1
    tokens = text.nodes.flatten()[:steps].repeat(len(lines), 1)
    for index, line in enumerate(lines):
        tokens[index, : len(line.tokens)] = torch.tensor(line.tokens)
    output = model.generate(
        text.prompts[rows],
        attention_mask=text.mask[rows],
        logits_processor=[Forced(tokens, text.prompts.shape[1])],
        output_logits=True,
        return_dict_in_generate=True,
        **settings(steps),
    )
    logits = torch.stack(output.logits, dim=1)  # [lines, steps, V]; step 0 is the prompt's end
    found = []
    for index, line in enumerate(lines):
        after = len(line.tokens) + 1
        found.append(logits[index, after - len(line.branch) : after])
    return found


def settings(steps: int) -> dict:
    """Arguments of generate, in place of whatever a model has as its own."""
    return dict(
        max_new_tokens=steps,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=None,
        pad_token_id=PADDING,
    )


class Forced(LogitsProcessor):
    """Leaves each row one token to choose.

    Args:
        tokens: [R, steps], ids.
        begin: slots of the prompt.
    """

    def __init__(self, tokens: torch.Tensor, begin: int):
        self.tokens = tokens
        self.begin = begin

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self.begin
        only = torch.full_like(scores, float("-inf"))
        return only.scatter(1, self.tokens[:, step, None], 0.0)
