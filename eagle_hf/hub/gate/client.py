"""Ask a running engine for greedy answers, and read how many drafts it accepted for each.

| engine | where the tokens are asked for | where the counters stand |
| --- | --- | --- |
| vLLM | /v1/completions, `return_token_ids` | /metrics, before and after an answer |
| llama.cpp | /v1/completions, ids of `logprobs` | `timings` of the answer |
| SGLang | /generate | `meta_info` of the answer |

Prompts are sent as token ids, so no chat template stands between.
"""

import http.client
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from eagle_hf.data.answers import draft_counts
from eagle_hf.data.answers.draft_counts import (
    DraftCounts,
    counts_of,
    drafts_in_answer,
    read_counters,
    sum_counter,
)
from eagle_hf.data.answers.wire import ids_of_logprobs

ANSWER_S = 600  # most seconds for one answer
SETTLING_S = 3.0  # most seconds until counters have followed an answer
POLL_S = 0.05
SHOWN = 300  # characters of a server's words in an error
# vLLM's counters, as Prometheus writes them.
ROUNDS = f"vllm:{draft_counts.ROUNDS}"
ACCEPTED = f"vllm:{draft_counts.ACCEPTED}"


class EngineError(ValueError):
    """A server that is not there, stopped, or says something else than was asked."""


@dataclass(frozen=True)
class Answer:
    """One answer of an engine.

    Args:
        tokens: Its token ids.
        accepted: Drafts that were accepted for it.
        rounds: Rounds that drafted, None where the engine does not say.
    """

    tokens: list[int]
    accepted: int
    rounds: int | None


class EngineClient:
    """A server of a known kind.

    Args:
        engine: "vllm", "llamacpp" or "sglang".
        url: Its address, with or without /v1.
        model: The name to ask for; None for the only one that it lists.

    Raises:
        EngineError: Nothing answers there, or it has no such model.
    """

    def __init__(self, engine: str, url: str, model: str | None = None) -> None:
        self.engine = engine
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = self._choose_model(model)

    def answer(self, prompt: Sequence[int], new_tokens: int) -> Answer:
        """The greedy answer to a prompt.

        Args:
            prompt: Token ids.
            new_tokens: Most tokens of the answer.

        Returns:
            Its tokens, and what was accepted for it.

        Raises:
            EngineError: The server is gone, names no tokens, or counts no drafts.
        """
        if self.engine == "vllm":
            return self._answer_of_vllm(prompt, new_tokens)
        if self.engine == "llamacpp":
            return self._answer_of_llamacpp(prompt, new_tokens)
        return self._answer_of_sglang(prompt, new_tokens)

    def render(self, messages: list[dict[str, str]]) -> list[int] | None:
        """The token ids into which the server's own chat template makes messages.

        Returns:
            The ids up to where an answer begins; None where the engine does not tell.
        """
        if self.engine == "vllm":
            body = {"model": self.model, "messages": messages, "add_generation_prompt": True}
            return _ids(self._post("/tokenize", body).get("tokens"))
        if self.engine == "llamacpp":
            text = self._post("/apply-template", {"messages": messages}).get("prompt")
            body = {"content": text, "add_special": False, "parse_special": True}
            return _ids(self._post("/tokenize", body).get("tokens"))
        return None

    def _choose_model(self, model: str | None) -> str:
        """The name to ask for, which the server must list."""
        listed = self._read_json("/v1/models", None).get("data")
        rows = listed if isinstance(listed, list) else []
        names = [str(row.get("id")) for row in rows if isinstance(row, dict)]
        if model is None and len(names) == 1:
            return names[0]
        if model not in names:
            wanted = "name one of them" if model is None else f"there is no {model!r}"
            raise EngineError(
                f"{self.url} serves {', '.join(names) or 'no model'}; {wanted}: --served-model"
            )
        return model

    def _answer_of_vllm(self, prompt: Sequence[int], new_tokens: int) -> Answer:
        """vLLM's answer; its counters are those of the whole server."""
        before = self._vllm_counts()
        reply = self._post("/v1/completions", self._body(prompt, new_tokens, "return_token_ids"))
        tokens = _ids(_first_choice(reply).get("token_ids"))
        if tokens is None:
            raise EngineError(f"{self.url} names no token ids: vLLM 0.10.2 or newer does")
        # The answer is sent before it is counted.
        until = time.monotonic() + SETTLING_S
        grown = DraftCounts(0, 0)
        while grown.rounds + grown.accepted < len(tokens) - 1 and time.monotonic() < until:
            grown = self._vllm_counts().since(before)
            time.sleep(POLL_S)
        if grown.rounds == 0 and len(tokens) > 2:
            raise EngineError(
                f"{self.url} wrote {len(tokens)} tokens and drafted none: "
                "was it started with --speculative-config?"
            )
        if grown.rounds > len(tokens):
            raise EngineError(
                f"{self.url} counted {grown.rounds} rounds for {len(tokens)} tokens: it answers "
                "others too, and its counters are those of all; ask it while nobody else does"
            )
        return Answer(tokens, grown.accepted, grown.rounds)

    def _vllm_counts(self) -> DraftCounts:
        """What was drafted since the server was started."""
        text = self._get("/metrics").decode(errors="replace")
        for name in (ROUNDS, ACCEPTED):
            if sum_counter(text, name) is None:
                raise EngineError(
                    f"{self.url}/metrics has no {name}: the server drafts nothing, or its log "
                    "statistics are off (--disable-log-stats)"
                )
        counts = read_counters(text)
        assert counts is not None, "both counters are there"
        return counts

    def _answer_of_llamacpp(self, prompt: Sequence[int], new_tokens: int) -> Answer:
        """llama.cpp's answer, which brings its own counters."""
        body = self._body(prompt, new_tokens) | {"logprobs": 1, "cache_prompt": False}
        reply = self._post("/v1/completions", body)
        tokens = _ids(ids_of_logprobs(_first_choice(reply).get("logprobs")))
        if tokens is None:
            raise EngineError(f"{self.url} names no token ids beside its logprobs")
        counts = counts_of(drafts_in_answer(reply), len(tokens))
        if counts is None and len(tokens) > 2:
            raise EngineError(
                f"{self.url} wrote {len(tokens)} tokens and its timings have no draft_n: was it "
                "started with --spec-type draft-eagle3?"
            )
        return Answer(tokens, counts.accepted if counts else 0, None)

    def _answer_of_sglang(self, prompt: Sequence[int], new_tokens: int) -> Answer:
        """SGLang's answer through its native address, which brings its own counters."""
        sampling = {"temperature": 0, "max_new_tokens": new_tokens}
        body = {"input_ids": list(prompt), "sampling_params": sampling}
        reply = self._post("/generate", body)
        tokens = _ids(reply.get("output_ids"))
        if tokens is None:
            raise EngineError(f"{self.url} names no output_ids")
        counts = counts_of(drafts_in_answer(reply), len(tokens))
        if counts is None:
            raise EngineError(
                f"{self.url} wrote {len(tokens)} tokens and its meta_info has no spec_verify_ct: "
                "was it started with --speculative-algorithm EAGLE3?"
            )
        return Answer(tokens, counts.accepted, counts.rounds)

    def _body(self, prompt: Sequence[int], new_tokens: int, *flags: str) -> dict[str, Any]:
        """A greedy request without penalties."""
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": list(prompt),
            "max_tokens": new_tokens,
            "temperature": 0,
        }
        return body | dict.fromkeys(flags, True)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._read_json(path, json.dumps(body).encode())

    def _read_json(self, path: str, body: bytes | None) -> dict[str, Any]:
        """A JSON object that the server sends."""
        raw = self._get(path, body)
        try:
            payload = json.loads(raw)
        except ValueError as error:
            raise EngineError(f"{self.url}{path} sent no JSON: {_shown(raw)}") from error
        if not isinstance(payload, dict):
            raise EngineError(f"{self.url}{path} sent no JSON object: {_shown(raw)}")
        return payload

    def _get(self, path: str, body: bytes | None = None) -> bytes:
        """What the server sends."""
        try:
            request = Request(self.url + path, body, {"Content-Type": "application/json"})
            with urlopen(request, timeout=ANSWER_S) as reply:
                return reply.read()
        except HTTPError as error:
            words = _shown(error.read())
            raise EngineError(f"{self.url}{path} answers HTTP {error.code}: {words}") from error
        except (URLError, OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or repr(error)
            raise EngineError(
                f"no server answers at {self.url}{path} ({reason}); is it running?"
            ) from error
        except ValueError as error:
            raise EngineError(
                f"{self.url} is no address ({error}); give one as http://host:port"
            ) from error


def _first_choice(reply: dict[str, Any]) -> dict[str, Any]:
    """The only choice of a completion."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise EngineError(f"an answer without choices: {_shown(json.dumps(reply).encode())}")
    return choices[0]


def _ids(values: Any) -> list[int] | None:
    """Token ids; None for anything else, or for none."""
    if not isinstance(values, list) or not values:
        return None
    return values if all(type(value) is int for value in values) else None


def _shown(raw: bytes) -> str:
    """The beginning of what a server said."""
    return " ".join(raw[:SHOWN].decode(errors="replace").split())
