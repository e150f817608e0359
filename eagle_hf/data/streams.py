"""Conversations that do not fit in memory: rendered and tokenised while they are read."""

from collections.abc import Callable, Iterable
from itertools import islice

from torch.utils.data import IterableDataset, get_worker_info

from eagle_hf.data.masking import SkippedRow


class StreamedExamples(IterableDataset):
    """The usable examples of `rows`, any iterable that can be read again (a streaming `datasets.IterableDataset`).

    examples_of: rows -> (examples, skipped), as `tokenize_conversations` with its settings bound, given one row at a
    time. Rows that give none are appended to `skipped`.
    """

    def __init__(self, rows: Iterable, examples_of: Callable, skipped: list[SkippedRow]):
        self.rows, self.examples_of, self.skipped = rows, examples_of, skipped

    def set_epoch(self, epoch: int) -> None:
        """Shuffle anew where the rows know how."""
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def __iter__(self):
        rows, worker = enumerate(self.rows), get_worker_info()
        if worker is not None and not isinstance(self.rows, IterableDataset):  # those share among workers themselves
            rows = islice(rows, worker.id, None, worker.num_workers)
        for number, row in rows:
            try:
                examples, _ = self.examples_of([{"id": f"row-{number}", **row}])
            except ValueError as error:
                self.skipped.append(SkippedRow(str(row.get("id") or f"row-{number}"), str(error)))
                continue
            yield from examples
