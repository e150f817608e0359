"""How servers are asked, and where they are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eagle_hf.data.templates.arguments import TemplateArguments

# What a request holds by other settings, and how those are called.
TAKEN_FIELDS = {
    "model": "model",
    "messages": "prompts",
    "tools": "a prompt's tools",
    "chat_template_kwargs": "template_arguments",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "seed": "seed",
}


@dataclass(frozen=True)
class ServingSettings:
    """How servers are asked.

    Attributes:
        model: name of the target on the servers.
        max_new_tokens: longest answer to one turn, in tokens.
        temperature: 0 is greedy.
        seed: of all sampling.
        concurrency: most requests in flight at each server.
        timeout_s: most seconds for one answer, its wait in the server's queue included.
        attempts: how often a request is sent before it fails.
        first_wait_s: seconds before the second attempt, doubled with each further one; up to
            `first_wait_s` more at random. A server's Retry-After goes before, up to `patience_s`.
        longest_wait_s: most seconds between two attempts.
        patience_s: how long no server may be reachable before the rest fails, in seconds.
        request_fields: other fields of every request, such as top_p. Settings that are not given
            are the server's.
        template_arguments: what the chat template is given beside the messages; a prompt's own
            win. Its date reaches templates that read `date_string`, where a recovery knows the
            template; others write the server's.
    """

    model: str
    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0
    concurrency: int = 32
    timeout_s: float = 600.0
    attempts: int = 6
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    patience_s: float = 300.0
    request_fields: dict[str, Any] = field(default_factory=dict)
    template_arguments: TemplateArguments = field(default_factory=TemplateArguments)

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("no model is named; name the target as the servers list it")
        for name in ("max_new_tokens", "concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("timeout_s", "first_wait_s", "longest_wait_s", "patience_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0 seconds")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; it must be at least 0")
        try:
            json.dumps(self.request_fields)
        except TypeError as error:
            raise ValueError(
                f"request_fields are {self.request_fields}, which is no JSON ({error})"
            ) from error
        if self.request_fields.get("stream") or self.request_fields.get("n", 1) != 1:
            raise ValueError(
                f"request_fields are {dict(self.request_fields)}; answers are asked whole and one "
                "by one, so leave out 'stream' and 'n'"
            )
        for name in self.request_fields:
            if name in TAKEN_FIELDS:
                raise ValueError(
                    f"request_fields hold {name!r}; give {TAKEN_FIELDS[name]} instead, which is "
                    "checked and kept with the answers"
                )


def base_urls(urls: Sequence[str]) -> list[str]:
    """Check the addresses of servers.

    Args:
        urls: http or https, with or without /v1.

    Returns:
        Each with /v1 and without a slash behind it.

    Raises:
        ValueError: none, one twice, or one that is no address.
    """
    if isinstance(urls, str) or not urls:
        raise ValueError(
            f"servers are {urls!r}; a list of addresses such as ['http://localhost:8000'] is needed"
        )
    bases = []
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"the server {url!r} is no address; write http://{url}")
        base = url.rstrip("/")
        bases.append(base if base.endswith("/v1") else f"{base}/v1")
    if len(set(bases)) < len(bases):
        raise ValueError(f"a server is named twice in {', '.join(bases)}; name each once")
    return bases
