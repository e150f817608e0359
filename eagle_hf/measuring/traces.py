"""Record once what a drafter proposes everywhere along real answers; replay any policy on it, against any cost table.

The same growth code runs in a replay as in `generate`: a `Recorded` drafter answers it from the trace. So policies can be
compared to the token, without a model and without a clock.

T positions of all answers, X nodes run at each, K children recorded of each. A position is a token of an answer taken
as root; what follows it in the answer is what the target chooses.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import cycle
from pathlib import Path

import numpy
import torch

from eagle_hf.compat import cache_inputs, last_logits
from eagle_hf.decoding.cache import TreeCache
from eagle_hf.decoding.drafters import bind
from eagle_hf.decoding.growth import grow, grow_dynamic
from eagle_hf.decoding.loop import read
from eagle_hf.decoding.stats import DecodingStats, Stopwatch
from eagle_hf.decoding.timing import given_tree
from eagle_hf.decoding.tree import root_alone
from eagle_hf.decoding.verify import verify
from eagle_hf.head.configuration import TreeConfig
from eagle_hf.planning.cost import CostTable
from eagle_hf.target import unwrap


@dataclass
class Trace:
    """answers [T]: which answer a position belongs to; text [T]: its token; tokens, log_probs, nodes [T, X, K].

    Node 0 is the root; nodes[t, x, j] is the node that child j of x is, -1 where it was not run.
    """

    answers: numpy.ndarray
    text: numpy.ndarray
    tokens: numpy.ndarray
    log_probs: numpy.ndarray
    nodes: numpy.ndarray

    def walks(self):
        """(depth, position, expanded node, its accepted child or -1) wherever a path of accepted drafts leads, at every position."""
        ends = numpy.append(numpy.flatnonzero(numpy.diff(self.answers)), len(self.answers) - 1)
        for position in range(len(self.text)):
            end, node = ends[numpy.searchsorted(ends, position)], 0
            for depth in range(end - position):
                child = numpy.flatnonzero(
                    self.tokens[position, node] == self.text[position + depth + 1]
                )
                yield depth, position, node, int(child[0]) if len(child) else -1
                node = int(self.nodes[position, node, child[0]]) if len(child) else -1
                if node < 0:
                    break

    def counts(self, depths: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """(trials [D], accepted [D, K]) by depth and rank, for planning.sequoia.acceptance_vector."""
        trials, accepted = numpy.zeros(depths), numpy.zeros((depths, self.tokens.shape[2]))
        for depth, _, _, child in self.walks():
            if depth < depths:
                trials[depth] += 1
                accepted[depth, child] += child >= 0
        return trials, accepted

    def logs(self, ranks: int | None = None) -> list[tuple[int, float, bool]]:
        """(depth from 1, log-probability, accepted) of every draft, or of the `ranks` best, whose parent was accepted: for planning.policy.fit_calibration."""
        return [
            (depth + 1, float(log_prob), rank == child)
            for depth, position, node, child in self.walks()
            for rank, log_prob in enumerate(self.log_probs[position, node, :ranks])
        ]

    def of_answers(self, numbers: Sequence[int]) -> "Trace":
        """The part of the trace that belongs to these answers."""
        chosen = numpy.isin(self.answers, numbers)
        return Trace(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def save(self, path: str | Path) -> None:
        """As .npz, log-probabilities in float16."""
        small = {field.name: getattr(self, field.name) for field in fields(self)}
        small["log_probs"] = small["log_probs"].astype(numpy.float16)
        numpy.savez_compressed(path, **small)

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
    """What `assistant` proposes after every token of each answer [n] to its prompt [1, S].

    In trees of `depth` levels: `width` nodes are run at each, and `children` of every node that is run are kept.
    """
    if children < width:
        raise ValueError(
            f"children is {children} and width {width}; of every node at least as many children are kept as nodes are run"
        )
    rows = {field.name: [] for field in fields(Trace)}
    for number, (prompt, answer) in enumerate(zip(prompts, answers)):
        prompt, answer, cache = prompt.to(target.device), answer.to(target.device), TreeCache()
        with given_tree(assistant, TreeConfig(depth=depth, top_k=width, nodes=1)):
            drafter = bind(assistant, target, cache, Stopwatch())
        seen, visible = keep_proposals(drafter, children), torch.ones_like(prompt, dtype=torch.bool)
        kept = cache_inputs(unwrap(target), cache) | last_logits(unwrap(target))
        with drafter.watching(visible):
            _, aux = read(target, drafter.aux_layer_ids, input_ids=prompt, **kept)
        drafter.start(prompt, visible, aux, answer[:1])
        _, aux = read(target, drafter.aux_layer_ids, input_ids=answer[None], **kept)
        for place in range(len(answer)):
            seen.clear()
            grow_dynamic(drafter, answer[None, place], drafter.plan, depth)
            for name, value in (
                ("answers", number),
                ("text", int(answer[place])),
                *_expanded(seen, min(width, drafter.vocabulary)),
            ):
                rows[name].append(value)
            following = answer[place + 1 : place + 2].tolist() or [0]
            drafter.accept(None if aux is None else aux[:, place, None], [[0]], [following])
    return Trace(**{name: numpy.array(values) for name, values in rows.items()})


def keep_proposals(drafter, children: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """A list that from now on gets the ids and log-probabilities [n, K] of the `children` best drafts wherever a drafter proposes some."""
    seen, propose, children = [], drafter.propose, min(children, drafter.vocabulary)

    def kept(hidden, k):
        scores, ids = propose(hidden, children)
        seen.append((ids.reshape(-1, children), scores.reshape(-1, children)))
        return scores[..., :k], ids[..., :k]

    drafter.propose = kept
    return seen


def _expanded(seen: list[tuple[torch.Tensor, torch.Tensor]], k: int):
    """tokens, log_probs and nodes [X, K] of one position, from what was proposed level by level, as grow_dynamic runs k nodes of each."""
    seen = [tuple(part.cpu() for part in level) for level in seen]
    tokens, log_probs = (torch.cat(parts) for parts in zip(*seen))
    nodes, totals, level = (
        torch.full_like(tokens, -1),
        seen[0][1][:, :k],
        [0],
    )  # totals [n, k]: of the children of the nodes in `level`
    for number, (_, scores) in enumerate(seen[1:]):
        chosen = totals.flatten().topk(k).indices if number else torch.arange(k)
        first = 1 + number * k
        for place, index in enumerate(chosen.tolist()):
            nodes[level[index // k], index % k] = first + place
        totals, level = (
            totals.flatten()[chosen][:, None] + scores[:, :k],
            list(range(first, first + k)),
        )
    return ("tokens", tokens.numpy()), ("log_probs", log_probs.numpy()), ("nodes", nodes.numpy())


class Recorded:
    """A drafter that answers from a trace; its outputs [B, ., 1] are expanded nodes, -1 for those that were not recorded."""

    def __init__(self, trace: Trace):
        self.trace, self.positions, self.drawing = trace, None, None
        self.vocabulary = trace.tokens.shape[2]

    def at(self, positions: Sequence[int]) -> None:
        """Draft at these positions, one a row; `widths` counts from here."""
        self.positions, self.widths = numpy.asarray(positions), []

    def extend(self) -> torch.Tensor:
        self.widths.append(1)
        return torch.zeros(len(self.positions), 1, dtype=torch.long)

    def propose(self, outputs: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        nodes = outputs[..., 0].numpy()
        rows = self.positions.reshape(-1, *[1] * (nodes.ndim - 1))
        known = torch.from_numpy(nodes >= 0)[..., None]
        log_probs, tokens = (
            torch.from_numpy(part[rows, nodes][..., :k].copy())
            for part in (self.trace.log_probs, self.trace.tokens)
        )
        return log_probs.float().masked_fill(~known, -30.0), tokens.long().masked_fill(~known, -1)

    def step(
        self, tokens: torch.Tensor, outputs: torch.Tensor, level: int, ancestors: torch.Tensor
    ) -> torch.Tensor:
        self.widths.append(tokens.shape[1])
        parents, rows = outputs[..., 0].numpy(), self.positions[:, None]
        is_child = self.trace.tokens[rows, parents] == tokens.numpy()[..., None]
        nodes = numpy.where(
            is_child.any(-1) & (parents >= 0),
            self.trace.nodes[rows, parents, is_child.argmax(-1)],
            -1,
        )
        return torch.from_numpy(nodes)[..., None]


def replay(
    trace: Trace, plan, table: CostTable, batch: int, length: int, tokens: int = 64
) -> tuple[float, DecodingStats]:
    """(tokens per second in the table's seconds, what was accepted) of decoding under a plan; deterministic.

    `batch` rows at a time, each with `length` tokens before it and `tokens` of an answer to go. The batch is always full: the
    next answer takes the place of one that ends, until as many have ended as there are. Drafts that were not recorded count as
    rejected: for trees beyond the recorded ones this is a lower bound.
    """
    starts = sorted(numpy.unique(trace.answers, return_index=True)[1].tolist())
    ends = {
        start: min(start + tokens, end) for start in starts if (end := _end(trace, start)) > start
    }
    if not ends:
        raise ValueError(
            "no answer of the trace has two tokens, so there is nothing to replay; record longer answers"
        )
    drafter, stats, seconds, ended, waiting = (
        Recorded(trace),
        DecodingStats(rows=batch),
        0.0,
        0,
        cycle(ends),
    )
    begun = [next(waiting) for _ in range(batch)]
    done = list(begun)
    while ended < len(ends):
        drafter.at(done)
        lengths = [length + place - start for place, start in zip(done, begun)]
        root = torch.from_numpy(trace.text[drafter.positions])
        tree = (
            grow(drafter, root, plan, plan.depth)
            if plan.begin(lengths, plan.depth)
            else root_alone(root)
        )
        emitted = 0
        for row, start in enumerate(begun):
            verdict = verify(tree.children(row), *_answer(trace, tree, row, done[row], ends[start]))
            stats.count(verdict.trials, verdict.accepted, len(verdict.tokens))
            emitted += len(verdict.tokens)
            done[row] += len(verdict.tokens)
            if done[row] >= ends[start]:
                begun[row] = done[row] = next(waiting)
                ended += 1
        seconds += table.at(batch, max(lengths)).round_seconds(
            tree.tokens.shape[1] - 1, drafter.widths
        )
        plan.end(emitted)
    return stats.tokens / seconds, stats


def _end(trace: Trace, place: int) -> int:
    """The last position of an answer; nothing is known to follow it."""
    return int(numpy.flatnonzero(trace.answers == trace.answers[place])[-1])


def _answer(trace, tree, index, place, end):
    """`choose` and `emit` for `verify`: the answer itself, which stops at its end."""
    depths, reached = tree.depths[index].tolist(), [place]

    def choose(node):
        return int(trace.text[place + depths[node] + 1])

    def emit(token):
        reached[0] += 1
        return reached[0] >= end

    return choose, emit
