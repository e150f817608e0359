"""What every server is asked, and how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What a request holds by other settings.
TAKEN = ("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "seed", "n")
WITH_COUNTS = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
# What makes an engine count tokens in every chunk, by the name that it calls itself.
COUNTING_FIELDS: dict[str, dict[str, Any]] = {
    "vllm": WITH_COUNTS,
    "sglang": WITH_COUNTS,
    "llamacpp": {"stream_options": {"include_usage": True}, "timings_per_token": True},
}
USAGE_ALONE: dict[str, Any] = {"stream_options": {"include_usage": True}}


@dataclass(frozen=True)
class BenchSettings:
    """How servers are asked.

    Attributes:
        max_new_tokens: longest answer, in tokens.
        temperature: 0 is greedy.
        seed: of the sampling and of Poisson arrivals.
        requests: of a run; prompts are repeated where there are fewer. None: each prompt once.
        warm_up: requests before each run, which are not measured.
        timeout_s: most seconds for one answer.
        prefix_cache: let the server reuse what it has read for an earlier request. Otherwise a
            prompt of a later run would be read sooner than that of the first.
        request_fields: other fields of every request, such as top_p; one that is None is left out
            of the request.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    requests: int | None = None
    warm_up: int = 2
    timeout_s: float = 600.0
    prefix_cache: bool = False
    request_fields: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 2:
            raise ValueError(
                f"max_new_tokens is {self.max_new_tokens}; at least 2 are needed for a time "
                "between tokens"
            )
        if self.requests is not None and self.requests < 1:
            raise ValueError(f"requests is {self.requests}; at least 1 is needed")
        if self.warm_up < 0:
            raise ValueError(f"warm_up is {self.warm_up}; give 0 or more requests")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s is {self.timeout_s}; it must be above 0 seconds")
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; it must be at least 0")
        for name in self.request_fields:
            if name in TAKEN or name == "stream":
                raise ValueError(
                    f"request_fields hold {name!r}, which is set by other settings; leave it out"
                )

    def fields_for(self, engine: str, salt: str) -> dict[str, Any]:
        """The fields of a request beside those that every server knows.

        Args:
            engine: what the server calls itself; "" where it does not say.
            salt: another one for each request, so that no prefix is found in a cache.
        """
        fields: dict[str, Any] = {"stream": True, **COUNTING_FIELDS.get(engine, USAGE_ALONE)}
        if not self.prefix_cache:
            fields |= without_prefix_cache(engine, salt)
        for name, value in self.request_fields.items():
            if value is None:
                fields.pop(name, None)
            else:
                fields[name] = value
        return fields


def without_prefix_cache(engine: str, salt: str) -> Mapping[str, Any]:
    """What keeps an engine from reusing an earlier prompt; nothing for an unknown one."""
    if engine in ("vllm", "sglang"):
        return {"cache_salt": salt}
    return {"cache_prompt": False} if engine == "llamacpp" else {}
