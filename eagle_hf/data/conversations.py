"""Conversations from wherever they are: a file or folder that `write_responses` wrote, or any dataset."""

from collections.abc import Sequence
from pathlib import Path

from eagle_hf.data.responses import CONVERSATIONS


def load_conversations(
    name: str | Path | Sequence[str | Path], split: str = "train", streaming: bool = False
):
    """The rows of conversations.jsonl or another JSON-lines file, of the folder it lies in, or of a hub dataset's `split`.

    Several names: one after the other. A `datasets.Dataset`, or with streaming an `IterableDataset`, which keeps
    nothing on disk.
    """
    from datasets import concatenate_datasets, load_dataset

    if not isinstance(name, str | Path):
        if not name:
            raise ValueError(
                "no dataset was named; give a JSON-lines file, its folder, or a hub dataset"
            )
        return concatenate_datasets([load_conversations(one, split, streaming) for one in name])
    path = Path(name)
    file = path / CONVERSATIONS if path.is_dir() else path
    if file.is_file():
        return load_dataset("json", data_files=str(file), split="train", streaming=streaming)
    if path.is_dir() or path.suffix in (".jsonl", ".json") or path.is_absolute():
        raise ValueError(
            f"{file} does not exist; give a JSON-lines file, a folder with {CONVERSATIONS}, or a hub dataset"
        )
    return load_dataset(str(name), split=split, streaming=streaming)
