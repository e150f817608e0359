"""Conversations that do not fit in memory: rendered and tokenized while they are read."""

from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from eagle_hf.data.rows import Example, SkippedRow, first_reasons

ToExamples = Callable[[list[Any]], tuple[list[Example], list[SkippedRow]]]


class StreamedExamples(IterableDataset):
    """The usable examples of a stream of rows.

    Args:
        rows: any iterable that can be read again, such as a streaming `datasets.IterableDataset`.
        to_examples: turns rows into `(examples, skipped)`, as `prepare_examples` does with its
            other arguments bound. It is given one row at a time.
        skipped: collects the rows that give no example. DataLoader workers collect them in their
            own copies.
        endless: begin again after the last row, in a new order where the rows can be shuffled
            anew. Training wants that, and a resumed run needs it to count its way to where it was.

    Raises:
        ValueError: a pass over the rows gives no example.
    """

    def __init__(
        self,
        rows: Iterable[Any],
        to_examples: ToExamples,
        skipped: list[SkippedRow],
        endless: bool = False,
    ):
        self.rows = rows
        self.to_examples = to_examples
        self.skipped = skipped
        self.endless = endless

    def __iter__(self) -> Iterator[Example]:
        for epoch in count():
            # A shuffled streaming dataset draws a new order from the epoch.
            set_epoch = getattr(self.rows, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)
            usable = 0
            for example in self._one_pass():
                usable += 1
                yield example
            # Without this an endless stream of unusable rows would never return.
            if usable == 0:
                self._check_is_worker()
                return
            if not self.endless:
                return

    def _check_is_worker(self) -> None:
        """A DataLoader worker may have no usable row in its share; a whole pass may not."""
        if get_worker_info() is not None:
            return
        reasons = first_reasons(self.skipped, "there were no rows")
        raise ValueError(
            f"no row of the stream is usable ({reasons}); fix the data or the settings"
        )

    def _one_pass(self) -> Iterator[Example]:
        """The examples of this process's or worker's share of the rows, in order."""
        rows = enumerate(self.rows)
        worker = get_worker_info()
        # Datasets made for torch share their rows among workers themselves.
        shares_itself = isinstance(self.rows, IterableDataset)
        if worker is not None and not shares_itself:
            rows = islice(rows, worker.id, None, worker.num_workers)
        for number, row in rows:
            name = f"row-{number}"  # a row that has an id keeps it
            try:
                examples, left_out = self.to_examples([{"id": name, **row}])
            except ValueError as error:
                self.skipped.append(SkippedRow(str(row.get("id") or name), str(error)))
            else:
                self.skipped += left_out
                yield from examples
