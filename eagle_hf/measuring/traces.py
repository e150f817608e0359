"""Record once what a drafter proposes everywhere along real answers.

replay.py then runs any policy on such a trace, against any cost table, without a model.

T positions of all answers, X nodes run at each, K children recorded of each. A position is a token
of an answer taken as root. What follows it in the answer is what the target chooses.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy
import torch

from eagle_hf.compat import last_logits
from eagle_hf.decoding.assistants import DraftContext, Drafter, require_assistant
from eagle_hf.decoding.caches.target import TargetCache
from eagle_hf.decoding.checks import check_rope
from eagle_hf.decoding.forward import TargetForward
from eagle_hf.decoding.growth import grow_dynamic
from eagle_hf.decoding.snapkv import recorded
from eagle_hf.head.trees import TreeConfig
from eagle_hf.planning.policies import FixedPolicy
from eagle_hf.target import execution_device, unwrap

NOT_RUN = -1  # the node of a child that was proposed only


@dataclass(frozen=True)
class Step:
    """A node on the path of accepted drafts behind a position.

    Attributes:
        depth: of the node; 0 for the root.
        position: where the path begins, of T.
        node: of X.
        child: the accepted one of its K children, -1 if none is.
    """

    depth: int
    position: int
    node: int
    child: int


@dataclass
class Trace:
    """What was proposed.

    Attributes:
        answers: [T], which answer a position belongs to.
        text: [T], its token.
        tokens, log_probs: [T, X, K], of the children. Node 0 is the root.
        nodes: [T, X, K], the node that each child is, -1 where it was not run.
    """

    answers: numpy.ndarray
    text: numpy.ndarray
    tokens: numpy.ndarray
    log_probs: numpy.ndarray
    nodes: numpy.ndarray

    def steps(self) -> Iterator[Step]:
        """Every node that a path of accepted drafts leads to, position by position."""
        is_last = numpy.append(numpy.diff(self.answers) != 0, True)
        ends = numpy.flatnonzero(is_last)
        for position in range(len(self.text)):
            end = ends[numpy.searchsorted(ends, position)]
            node = 0
            for depth in range(end - position):
                chosen = self.text[position + depth + 1]
                found = numpy.flatnonzero(self.tokens[position, node] == chosen)
                child = int(found[0]) if len(found) else -1
                yield Step(depth, position, node, child)
                if child < 0:
                    break
                node = int(self.nodes[position, node, child])
                if node == NOT_RUN:
                    break

    def counts(self, depths: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """(trials [D], accepted [D, K]) by depth and rank, for sequoia.acceptance_vector."""
        trials = numpy.zeros(depths)
        accepted = numpy.zeros((depths, self.tokens.shape[2]))
        for step in self.steps():
            if step.depth >= depths:
                continue
            trials[step.depth] += 1
            if step.child >= 0:
                accepted[step.depth, step.child] += 1
        return trials, accepted

    def outcomes(self, ranks: int | None = None) -> list[tuple[int, float, bool]]:
        """(depth from 1, log-probability, accepted), for calibration.fit_calibration.

        Of every draft whose parent was accepted, or of the `ranks` best of them.
        """
        outcomes = []
        for step in self.steps():
            log_probs = self.log_probs[step.position, step.node, :ranks]
            for rank, log_prob in enumerate(log_probs):
                outcomes.append((step.depth + 1, float(log_prob), rank == step.child))
        return outcomes

    def of_answers(self, numbers: Sequence[int]) -> "Trace":
        """The part of the trace that belongs to these answers."""
        chosen = numpy.isin(self.answers, numbers)
        parts = {field.name: getattr(self, field.name)[chosen] for field in fields(self)}
        return Trace(**parts)

    def save(self, path: str | Path) -> None:
        """Write it as .npz, log-probabilities in float16."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        parts["log_probs"] = parts["log_probs"].astype(numpy.float16)
        numpy.savez_compressed(path, **parts)

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Inverse of save, up to float16; ValueError for anything else."""
        try:
            with numpy.load(path, allow_pickle=False) as saved:
                return cls(**{field.name: saved[field.name] for field in fields(cls)})
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(
                f"{path} is no trace ({error}); record one with eagle_hf.measuring.traces.record"
            ) from error


class Recorder:
    """A drafter whose proposals are kept, `children` of every node that is run.

    Trees grow from it as from the drafter itself.
    """

    sampler = None

    def __init__(self, drafter: Drafter, children: int):
        self._drafter = drafter
        self._children = min(children, drafter.vocabulary)
        self.vocabulary = drafter.vocabulary
        self.tokens: list[torch.Tensor] = []  # a level each, [n, K]
        self.log_probs: list[torch.Tensor] = []

    def forget(self) -> None:
        """Begin a new position."""
        self.tokens = []
        self.log_probs = []

    def extend(self) -> torch.Tensor:
        """See `Drafter.extend`."""
        return self._drafter.extend()

    def step(self, tokens, hidden, level, ancestors) -> torch.Tensor:
        """See `Drafter.step`."""
        return self._drafter.step(tokens, hidden, level, ancestors)

    def propose(self, hidden: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The k best of the proposals that are kept."""
        log_probs, tokens = self._drafter.propose(hidden, self._children)
        self.log_probs.append(log_probs.reshape(-1, self._children))
        self.tokens.append(tokens.reshape(-1, self._children))
        return log_probs[..., :k], tokens[..., :k]


@torch.no_grad()
def record(
    target,
    assistant,
    prompts: Sequence[torch.Tensor],
    answers: Sequence[torch.Tensor],
    depth: int = 5,
    width: int = 8,
    children: int = 32,
) -> Trace:
    """What an assistant proposes after every token of real answers.

    Args:
        target: the model that verifies.
        assistant: a draft head, a WindowedDraft or a SelfSpeculation.
        prompts: [1, S] each.
        answers: [n] each, to these prompts.
        depth: levels of the trees.
        width: nodes that are run at each.
        children: how many are kept of every node that is run.

    Returns:
        The trace.

    Raises:
        ValueError: where fewer children are kept than nodes are run, or an answer ends beyond
            what the target's RoPE lets a tree read.
    """
    if children < width:
        raise ValueError(
            f"children is {children} and width {width}; of every node at least as many children "
            "are kept as nodes are run"
        )
    for prompt, answer in zip(prompts, answers, strict=True):
        check_rope(target, prompt.shape[1] + len(answer))
    tree = TreeConfig(depth=depth, top_k=width, nodes=1)
    rows: dict[str, list] = {field.name: [] for field in fields(Trace)}
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        prompt = prompt.to(execution_device(target))
        answer = answer.to(execution_device(target))
        proposals = _proposals(target, assistant, prompt, answer, tree, children)
        for token, (tokens, log_probs, nodes) in zip(answer.tolist(), proposals, strict=True):
            rows["answers"].append(number)
            rows["text"].append(token)
            rows["tokens"].append(tokens)
            rows["log_probs"].append(log_probs)
            rows["nodes"].append(nodes)
    return Trace(**{name: numpy.array(values) for name, values in rows.items()})


def start_drafter(
    target, assistant, prompt: torch.Tensor, answer: torch.Tensor, tree: TreeConfig
) -> tuple[Drafter, torch.Tensor | None]:
    """A drafter behind the first token of an answer that the target has read whole.

    Args:
        target: the model that verifies.
        assistant: who drafts.
        prompt: [1, S].
        answer: [n].
        tree: bounds of the drafts; one that needs no plan.

    Returns:
        The drafter, and the aux hidden states [1, n, 3H] of the answer where it reads any.
    """
    cache = TargetCache()
    context = DraftContext.without_run(target, cache, tree)
    drafter = require_assistant(assistant).drafter(context)
    forward = TargetForward(target, cache, drafter.aux_layer_ids)
    visible = torch.ones_like(prompt, dtype=torch.bool)
    selection = drafter.prefill_selection(visible)
    last_only = last_logits(unwrap(target))
    with recorded(selection):
        _, aux = forward.read_prompt(prompt, **last_only)
    drafter.start(prompt, visible, aux, answer[:1], selection)
    _, aux = forward.read_prompt(answer[None], **last_only)
    return drafter, aux


def _proposals(
    target,
    assistant,
    prompt: torch.Tensor,
    answer: torch.Tensor,
    tree: TreeConfig,
    children: int,
) -> Iterator[tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]]:
    """tokens, log_probs and nodes [X, K] of every position of an answer [n]."""
    # 1) prompt and answer are read whole; the drafter follows token by token
    drafter, aux = start_drafter(target, assistant, prompt, answer, tree)

    # 2) at every token a tree, whose proposals are kept
    recorder = Recorder(drafter, children)
    policy = FixedPolicy(tree.depth, tree.top_k, tree.nodes)
    k = min(tree.top_k, drafter.vocabulary)
    for place in range(len(answer)):
        recorder.forget()
        draft = grow_dynamic(recorder, answer[None, place], policy, tree.depth)
        tokens = torch.cat(recorder.tokens).cpu()
        log_probs = torch.cat(recorder.log_probs).cpu()
        nodes = expanded_nodes(draft.expanded, k, tuple(tokens.shape))
        yield tokens.numpy(), log_probs.numpy(), nodes
        following = answer[place + 1 : place + 2].tolist() or [0]
        own = None if aux is None else aux[:, place, None]
        drafter.accept(own, [[0]], [following])


def expanded_nodes(
    expanded: Sequence[torch.Tensor], k: int, shape: tuple[int, ...]
) -> numpy.ndarray:
    """Which node each recorded child is, [X, K], from a draft's `expanded` for one row.

    Proposals are numbered in a pool: 1 to k for the root's children, then k * k for each further
    level, the k children of each node that was run there. Nodes are numbered as they were run.
    """
    nodes = numpy.full(shape, NOT_RUN)
    number = 0  # of the newest node
    for level, frontier in enumerate(expanded):
        parents_begin = number - k + 1  # the first node of the level above
        children_begin = 1 if level == 0 else 1 + k + (level - 1) * k * k
        for proposal in frontier[0].tolist():
            place, rank = divmod(proposal - children_begin, k)
            parent = 0 if level == 0 else parents_begin + place
            number += 1
            nodes[parent, rank] = number
    return nodes
