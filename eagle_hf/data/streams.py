"""Conversations that do not fit in memory: rendered and tokenised while they are read."""

from collections.abc import Callable, Iterable
from itertools import count, islice

from torch.utils.data import IterableDataset, get_worker_info

from eagle_hf.data.masking import SkippedRow


class StreamedExamples(IterableDataset):
    """The usable examples of `rows`, any iterable that can be read again (a streaming `datasets.IterableDataset`).

    examples_of: rows -> (examples, skipped), as `tokenize_conversations` with its settings bound, given one row at a
    time. Rows that give none are appended to `skipped` (by DataLoader workers to their own copies of it).
    endless: begin again after the last row, in a new order where the rows can be shuffled anew: what training wants, and
    what lets a resumed run count its way to where it was. A pass without a usable row is a ValueError.
    """

    def __init__(
        self,
        rows: Iterable,
        examples_of: Callable,
        skipped: list[SkippedRow],
        endless: bool = False,
    ):
        self.rows, self.examples_of, self.skipped, self.endless = (
            rows,
            examples_of,
            skipped,
            endless,
        )

    def __iter__(self):
        for epoch in count() if self.endless else [0]:
            if hasattr(self.rows, "set_epoch"):
                self.rows.set_epoch(epoch)
            usable = 0
            for example in self._one_pass():
                usable += 1
                yield example
            if not usable and get_worker_info() is None:
                reasons = (
                    "; ".join(f"{row.id}: {row.reason}" for row in self.skipped[:3])
                    or "there were no rows"
                )
                raise ValueError(
                    f"no row of the stream is usable ({reasons}); fix the data or the settings"
                )
            if not usable:
                return

    def _one_pass(self):
        rows, worker = enumerate(self.rows), get_worker_info()
        if worker is not None and not isinstance(
            self.rows, IterableDataset
        ):  # those share among workers themselves
            rows = islice(rows, worker.id, None, worker.num_workers)
        for number, row in rows:
            try:
                examples, _ = self.examples_of([{"id": f"row-{number}", **row}])
            except ValueError as error:
                self.skipped.append(SkippedRow(str(row.get("id") or f"row-{number}"), str(error)))
                continue
            yield from examples
