"""The token ids of a batch whose rows grow at different speeds.

R rows of the call, L slots, B rows still in the batch.
"""

import torch

from eagle_hf.decoding.upload import upload

SLACK = 128  # columns beyond the prompts: room for the first rounds


class Sequences:
    """The ids of every row, and which rows still run.

    Args:
        input_ids: the prompts [R, S], padded on the left.
        max_length: the longest a row may become, in tokens.

    Attributes:
        ids: int64 [R, L], and as many columns as were needed so far.
        lengths: tokens of each row, left padding included.
        finished: whether each row has ended.
        in_batch: the rows still in the batch, in its order. Some of them may have ended.
    """

    def __init__(self, input_ids: torch.Tensor, max_length: int):
        rows, prompt = input_ids.shape
        self.ids = input_ids
        self.max_length = max_length
        self.lengths = [prompt] * rows
        self.finished = [False] * rows
        self.in_batch = list(range(rows))
        self._newest = [0] * rows

    @property
    def prompts(self) -> torch.Tensor:
        """The prompts [R, S]; only before anything is appended."""
        return self.ids[:, : self.lengths[0]]

    @property
    def all_finished(self) -> bool:
        """Whether every row has ended."""
        return all(self.finished)

    @property
    def ends(self) -> list[int]:
        """Slots of each row in the batch before its newest token."""
        return [self.lengths[row] - 1 for row in self.in_batch]

    @property
    def running_lengths(self) -> list[int]:
        """Tokens of the rows that have not ended."""
        running = []
        for length, is_finished in zip(self.lengths, self.finished, strict=True):
            if not is_finished:
                running.append(length)
        return running

    @property
    def room(self) -> int:
        """Tokens that the shortest running row may still emit."""
        return self.max_length - min(self.running_lengths)

    def prefix(self, row: int) -> torch.Tensor:
        """The ids [1, L] of a row so far."""
        return self.ids[row : row + 1, : self.lengths[row]]

    @property
    def whole(self) -> torch.Tensor:
        """The ids [R, L] of rows of one length, laid out as plain generate's are."""
        return self.ids[:, : self.lengths[0]].contiguous()

    def append(self, row: int, token: int) -> None:
        """Append a token to a row."""
        if self.lengths[row] == self.ids.shape[1]:
            self._make_room()
        self.ids[row, self.lengths[row]] = token
        self._newest[row] = token
        self.lengths[row] += 1

    def append_to_all(self, tokens: list[int]) -> None:
        """Append a token to every row of the call; all have one length."""
        length = self.lengths[0]
        if length == self.ids.shape[1]:
            self._make_room()
        self.ids[:, length] = upload(tokens, self.ids.device)
        self.lengths = [length + 1] * len(tokens)
        self._newest = tokens

    def finish(self, has_ended: list[bool]) -> None:
        """Say of every row of the call whether it has ended."""
        self.finished = list(has_ended)

    def newest(self) -> torch.Tensor:
        """The newest token [B] of every row in the batch."""
        return upload([self._newest[row] for row in self.in_batch], self.ids.device)

    def drop_finished(self) -> torch.Tensor | None:
        """Take rows that have ended out of the batch.

        Returns:
            The places in the batch that stay; None where nothing changes, or none would be left.
        """
        places = []
        for place, row in enumerate(self.in_batch):
            if not self.finished[row]:
                places.append(place)
        if not places or len(places) == len(self.in_batch):
            return None
        self.in_batch = [self.in_batch[place] for place in places]
        return upload(places, self.ids.device)

    def padded(self, pad_token) -> torch.Tensor:
        """The ids [R, longest], rows that ended early padded on the right."""
        longest = max(self.lengths)
        sequences = self.ids[:, :longest]
        for row, length in enumerate(self.lengths):
            if length < longest:
                sequences[row, length:] = pad_token
        return sequences

    def _make_room(self) -> None:
        """Double the columns, so that appending stays linear in time; `max_length` at most.

        Not all at once: `max_length` may be far beyond what a row becomes.
        """
        rows, columns = self.ids.shape
        most = min(2 * columns + SLACK, self.max_length)
        larger = self.ids.new_zeros(rows, most)
        larger[:, :columns] = self.ids
        self.ids = larger
