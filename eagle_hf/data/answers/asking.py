"""What is said to a server: the body of a chat completion.

engine        asked with                answer's ids          prompt's ids
vLLM          return_token_ids          token_ids of the      prompt_token_ids
                                        choice
SGLang        return_token_ids          token_ids of the      prompt_token_ids of the
                                        choice                choice
llama.cpp     logprobs                  in its logprobs       not given
transformers  nothing (422 otherwise)   not given             not given
"""

from collections.abc import Mapping
from typing import Any

from eagle_hf.data.answers.turns import TurnRequest
from eagle_hf.data.templates.arguments import TemplateArguments

# What makes an engine give token ids, by the name that it calls itself in /v1/models.
FIELDS_FOR_IDS: dict[str, dict[str, Any]] = {
    "vllm": {"return_token_ids": True},
    "sglang": {"return_token_ids": True},
    "llamacpp": {"logprobs": True, "top_logprobs": 1},
}


def request_body(
    request: TurnRequest,
    *,
    model: str,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    engine: str = "",
    request_fields: Mapping[str, Any] | None = None,
    arguments: TemplateArguments | None = None,
) -> dict[str, Any]:
    """Build the JSON of a chat completion.

    Args:
        request: the turn.
        model: name of the target on the server.
        max_new_tokens: longest answer.
        temperature: 0 is greedy.
        seed: of the sampling, at most 31 bits: llama.cpp takes no more.
        engine: which serves; it decides how token ids are asked for.
        request_fields: other fields, such as top_p.
        arguments: of the chat template. Default: none.

    Returns:
        The body.
    """
    body: dict[str, Any] = {
        "model": model,
        "messages": request.messages,
        "max_tokens": max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "stream": False,
    }
    if arguments is not None and arguments.tools:
        body["tools"] = arguments.tools
    if arguments is not None and arguments.variables:
        body["chat_template_kwargs"] = dict(arguments.variables)
    return body | FIELDS_FOR_IDS.get(engine, {}) | dict(request_fields or {})
