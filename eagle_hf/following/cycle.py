"""One cycle: train a candidate, measure it against the current head, publish it if it is better.

    training -> measuring -> publishing -> finished
                    |                        ^
                    +---- not better --------+

The phase and all that it needs are remembered before it begins, so a killed call goes on with it.
Every step of publishing may be done twice.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eagle_hf.following.choosing import Split
from eagle_hf.following.judging import (
    check_agreement,
    judge,
    measure_agreement,
    measure_head,
    note_acceptance,
)
from eagle_hf.following.learning import train_candidate
from eagle_hf.following.models import Models
from eagle_hf.following.pool import Pool
from eagle_hf.following.settings import FollowSettings
from eagle_hf.following.versions import Versions
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.training.trainer import DivergedError

PUBLISHED = "published"
NOT_BETTER = "not better"
DIVERGED = "diverged"
DIGITS = 4  # of what is written to the history

Record = dict[str, Any]  # the running cycle as the pool keeps it


class Cycle:
    """Runs cycles in one output folder.

    Args:
        models: the target.
        pool: the conversations.
        versions: the heads.
        settings: of the cycle.
        say: is told what happens, a line at a time.
    """

    def __init__(
        self,
        models: Models,
        pool: Pool,
        versions: Versions,
        settings: FollowSettings,
        say: Callable[[str], None],
    ):
        self.models = models
        self.pool = pool
        self.versions = versions
        self.settings = settings
        self.say = say

    def next_number(self) -> int:
        """The number of the cycle that would begin now."""
        return self.pool.fact("cycles", 0) + 1

    def begin(self, split: Split) -> None:
        """Check the newest answers, and remember the cycle.

        Args:
            split: its conversations.

        Raises:
            ValueError: the target cannot have given the answers.
        """
        number = self.next_number()
        base = self.versions.current()
        held_out = self.pool.examples(split.held_out)
        head = Eagle3DraftHead.from_pretrained(self.versions.path(base))
        agreement = measure_agreement(self.models.target, head.config, held_out)
        check_agreement(agreement, len(held_out))
        record: Record = {
            "phase": "training",
            "split": split._asdict(),
            "line": {
                "cycle": number,
                "base": base,
                "learnt": len(split.learnt),
                "replayed": len(split.replayed),
                "held_out": len(split.held_out),
                "agreement": round(agreement, DIGITS),
            },
        }
        self._remember(record)
        self.say(
            f"cycle {number} begins with version {base}: {len(split.learnt)} conversations to "
            f"learn, {len(split.replayed)} replayed, {len(split.held_out)} held out"
        )

    def go_on(self) -> None:
        """Run what is left of the cycle that was begun; nothing where none was."""
        steps = {"training": self._train, "measuring": self._measure, "publishing": self._publish}
        while (record := self.pool.fact("running", None)) is not None:
            steps[record["phase"]](record)

    def folder(self, record: Record) -> Path:
        """Where a cycle keeps its checkpoints and its candidate."""
        return self.settings.out / f"cycle-{record['line']['cycle']:04d}"

    def _train(self, record: Record) -> None:
        """Training: the candidate is there afterwards."""
        split = record["split"]
        examples = self.pool.examples([*split["learnt"], *split["replayed"]])
        base = self.versions.path(record["line"]["base"])
        try:
            learnt = train_candidate(
                self.models.target, base, examples, self.settings, self.folder(record)
            )
        except DivergedError as error:
            self.say(f"cycle {record['line']['cycle']}: {error}")
            self._remember(self._judged(record, DIVERGED))
            return
        record["line"] |= {
            "tokens_learnt": round(learnt.answer_tokens * learnt.epochs),
            "epochs": round(learnt.epochs, 2),
            "steps": learnt.steps,
            "training_seconds": round(learnt.seconds, 1),
        }
        self._remember(record | {"phase": "measuring"})

    def _measure(self, record: Record) -> None:
        """Measuring: the verdict is there afterwards."""
        started = time.perf_counter()
        settings = self.settings
        target = self.models.target
        examples = self.pool.examples(record["split"]["held_out"])
        base = self.versions.path(record["line"]["base"])
        candidate = self.folder(record) / "candidate"
        # Both draft the same tree, whatever was saved with either.
        tree = settings.measured_tree() or Eagle3DraftHead.from_pretrained(base).tree
        old = measure_head(target, base, examples, tree, settings.vocab_size)
        new = measure_head(target, candidate, examples, tree, settings.vocab_size)
        judgement = judge(old, new)
        if judgement.is_better:
            note_acceptance(target, candidate, examples, settings.vocab_size)
        record["line"] |= {
            "tau_old": round(judgement.tau_old, DIGITS),
            "tau_new": round(judgement.tau_new, DIGITS),
            "interval": [round(judgement.low, DIGITS), round(judgement.high, DIGITS)],
            "tree": str(tree),
            "measuring_seconds": round(time.perf_counter() - started, 1),
        }
        verdict = PUBLISHED if judgement.is_better else NOT_BETTER
        self._remember(self._judged(record, verdict))

    def _judged(self, record: Record, verdict: str) -> Record:
        """The record with its verdict, and the number of the version where there is one."""
        version = self.versions.next_number() if verdict == PUBLISHED else None
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = record["line"] | {"verdict": verdict, "version": version, "time": now}
        return record | {"phase": "publishing", "line": line}

    def _publish(self, record: Record) -> None:
        """Publishing: nothing of the cycle is left but its version and its line."""
        line = record["line"]
        if line["version"] is not None:
            self.versions.adopt(self.folder(record) / "candidate", line["version"])
            self.versions.switch(line["version"])
        self.versions.record(line)
        with self.pool.transaction():
            facts = {"judged_up_to": record["split"]["newest"], "cycles": line["cycle"]}
            if line["version"] is not None:
                facts["older_up_to"] = record["split"]["boundary"]
            self.pool.set_facts(running=None, **facts)
            self.pool.shrink(self.settings.most_new, self.settings.reservoir)
        shutil.rmtree(self.folder(record), ignore_errors=True)
        self.say(describe(line))

    def _remember(self, record: Record) -> None:
        """Keep the running cycle."""
        with self.pool.transaction():
            self.pool.set_facts(running=record)


def describe(line: Record) -> str:
    """A finished cycle in one sentence.

    Args:
        line: of the history.
    """
    head = f"cycle {line['cycle']}: "
    if line["verdict"] == DIVERGED:
        return f"{head}the training diverged; version {line['base']} stays"
    low, high = line["interval"]
    text = (
        f"{head}tau {line['tau_old']:.3f} -> {line['tau_new']:.3f} on {line['held_out']} prompts, "
        f"difference {low:+.3f} to {high:+.3f} (95 %)"
    )
    if line["verdict"] == PUBLISHED:
        return f"{text}: published as version {line['version']}"
    return f"{text}: not above 0, version {line['base']} stays"
