"""A running vLLM as the source of states, for `capture_features`.

vLLM reads a text when it is asked, writes its states to a file on a disk that both see, and names
the file in its answer. The file is read and removed, so that the disk holds the states of a few
texts. The command that starts vLLM is in docs/training.md.

S tokens of a text, n states of a token, H hidden size.
"""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import torch
from transformers import PreTrainedModel

from eagle_hf.data.features.capture_plan import PlannedConversation
from eagle_hf.data.features.engine_states.comparison import (
    check_form,
    check_states,
    shortest_and_longest,
)
from eagle_hf.data.features.engine_states.files import SUFFIX, holds_text, load_states
from eagle_hf.data.features.engine_states.needed import needed_states, states_to_features
from eagle_hf.data.features.state_sources import Choice
from eagle_hf.data.rows import Example, SkippedRow, TargetFeatures

ATTEMPTS = 4
FIRST_PAUSE_S = 1.0  # before the second attempt; doubled before each further one
POLL_S = 0.01  # between two looks at a file that is being written
AGAIN = "run again, which goes on after the finished shards"
ANSWER_SHOWN = 300  # characters of a refusal


class EngineServer:
    """The states that a running vLLM computes when it is asked for them.

    Args:
        url: of the server, such as "http://localhost:8000".
        at_once: texts that are asked for at the same time, at most those of one batch.
        timeout_s: most seconds for one text.

    Raises:
        ValueError: a setting that means nothing.
    """

    name = "engine"

    def __init__(self, url: str, *, at_once: int = 32, timeout_s: float = 600.0):
        if at_once < 1 or timeout_s <= 0:
            raise ValueError(
                f"at_once is {at_once} and timeout_s {timeout_s}; at_once must be at least 1, and "
                "timeout_s more than 0"
            )
        self.url = url.rstrip("/")
        self.at_once = at_once
        self.timeout_s = timeout_s
        self._model = ""  # as the server calls it, once it was asked

    def choose(
        self,
        target: PreTrainedModel,
        examples: Sequence[Example],
        conversations: Sequence[PlannedConversation],
        layer_ids: Sequence[int],
    ) -> Choice:
        """Ask the server for the shortest and the longest text, and compare them with the target.

        Args:
            target: in eval mode, in the dtype that the server computes in.
            examples: that are to be captured.
            conversations: the plan's view of these examples.
            layer_ids: whose inputs are the aux hidden states.

        Returns:
            Conversations that the server can read; longer ones are left out by name.

        Raises:
            ValueError: the server is not there, does not write states, or serves another target
                or other layers; all conversations are too long.
        """
        limit = self._ask_limit()
        chosen = []
        left_out = []
        for conversation in conversations:
            # A server reads a prompt in order to write at least one token behind it.
            if conversation.length < limit:
                chosen.append(conversation)
            else:
                reason = (
                    f"it has {conversation.length} tokens, and {self.url} reads {limit - 1}; start "
                    "it with a larger --max-model-len"
                )
                left_out.append(SkippedRow(conversation.id, reason))
        if not chosen:
            raise ValueError(
                f"all {len(conversations)} conversations are too long for {self.url}: "
                f"{left_out[0].reason}"
            )
        state_ids = needed_states(target, layer_ids)
        for conversation in shortest_and_longest(chosen):
            tokens = torch.as_tensor(examples[conversation.number]["input_ids"]).long()
            states = self._ask_states(tokens)
            form = (states.shape[1], states.shape[2], states.dtype)
            check_form(self.url, form, target, state_ids)
            check_states(self.url, target, tokens, states, state_ids)
        return Choice(chosen, left_out)

    def read(
        self,
        target: PreTrainedModel,
        layer_ids: list[int],
        batch: Sequence[PlannedConversation],
        input_ids: Sequence[torch.Tensor],
    ) -> TargetFeatures:
        """Ask for the states of a batch, and apply the target's final norm and LM head.

        Args:
            target: in eval mode.
            layer_ids: whose inputs are the aux hidden states.
            batch: conversations that `choose` has chosen.
            input_ids: their tokens.

        Returns:
            The features of all N tokens.

        Raises:
            ValueError: the server is gone, or gives states that cannot be used.
        """
        with ThreadPoolExecutor(min(self.at_once, len(batch))) as threads:
            parts = list(threads.map(self._ask_states, input_ids))
        return states_to_features(target, layer_ids, torch.cat(parts))

    def _ask_limit(self) -> int:
        """How many tokens the server takes, those that it writes included."""
        models = self._exchange("/v1/models", None).get("data") or [{}]
        self._model = models[0].get("id", "")
        limit = models[0].get("max_model_len")
        if not self._model or not isinstance(limit, int):
            raise ValueError(
                f"{self.url}/v1/models names no model with its max_model_len; start vLLM as "
                "docs/training.md says"
            )
        return limit

    def _ask_states(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The states [S, n, H] of a text; vLLM's file of them is removed."""
        body = {
            "model": self._model,
            "prompt": input_ids.tolist(),
            "max_tokens": 1,
            "temperature": 0,
        }
        answer = self._exchange("/v1/completions", body)
        name = (answer.get("kv_transfer_params") or {}).get("hidden_states_path")
        if not name:
            raise ValueError(
                f"{self.url} answers without hidden_states_path, so it writes no states; start "
                "vLLM with extract_hidden_states and its connector, as docs/training.md says"
            )
        path = Path(name)
        if path.suffix != SUFFIX:
            raise ValueError(
                f"{self.url} names {name} as its file of states, and a name that ends in {SUFFIX} "
                "is needed; is it vLLM, started as docs/training.md says?"
            )
        lock = Path(f"{name}.lock")
        try:
            self._wait_until_written(lock)
            return load_states(path.parent, path.name, input_ids, AGAIN)
        finally:
            # A server may name any file, and only the states of this text are ours to remove.
            if holds_text(path, input_ids):
                path.unlink(missing_ok=True)
                lock.unlink(missing_ok=True)

    def _wait_until_written(self, lock: Path) -> None:
        """Return once vLLM has let go of the lock beside a file."""
        until = time.monotonic() + self.timeout_s
        try:
            file = lock.open()
        except OSError as error:
            raise ValueError(
                f"{self.url} wrote states to {lock.parent}, which is not here ({error}); give "
                "vLLM a shared_storage_path on a disk that both see"
            ) from error
        with file:
            while not _is_free(file.fileno()):
                if time.monotonic() > until:
                    raise ValueError(
                        f"{self.url} has been writing {lock.with_suffix('')} for "
                        f"{self.timeout_s:g} s; look at its log: {AGAIN}"
                    )
                time.sleep(POLL_S)

    def _exchange(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Send a request, several times where the server is busy or gone; its answer."""
        pause = FIRST_PAUSE_S
        for attempt in range(ATTEMPTS):
            if attempt > 0:
                time.sleep(pause)
                pause *= 2
            try:
                return self._send(path, body)
            except (URLError, ConnectionError, TimeoutError, HTTPException) as error:
                problem = str(error)
        raise ValueError(
            f"{self.url}{path} cannot be reached in {ATTEMPTS} attempts ({problem}); start the "
            f"server: {AGAIN}"
        )

    def _send(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Send a request once; a refusal that another attempt does not mend is a ValueError."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=self.timeout_s) as reply:
                raw = reply.read()
        except HTTPError as error:
            is_passing = error.code == 429 or error.code >= 500
            if is_passing:
                raise
            words = error.read().decode(errors="replace")[:ANSWER_SHOWN]
            raise ValueError(f"{self.url}{path} refuses ({error.code}): {words}") from error
        try:
            answer = json.loads(raw)
        except ValueError as error:
            raise ValueError(
                f"{self.url}{path} answers {raw[:ANSWER_SHOWN]!r}, which is not JSON; is it vLLM?"
            ) from error
        if not isinstance(answer, dict):
            raise ValueError(f"{self.url}{path} answers {answer!r}; is it vLLM?")
        return answer


def _is_free(lock: int) -> bool:
    """Whether nobody holds the lock on a file; vLLM does while it writes."""
    import fcntl  # not on Windows

    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
