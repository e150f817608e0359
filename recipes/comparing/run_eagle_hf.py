"""transformers' `generate`, plain or with the head, for compare_engines.py.

The head drafts the tree that is fastest on this machine. In int8 are the weights alone, by torchao;
what is computed is in float32.
"""

import time
from typing import Any

import torch
from answering import Answer, AnswerPrompt, serve
from transformers.generation.streamers import BaseStreamer

import eagle_hf
from eagle_hf.evaluation import open_head, open_target


class FirstTokenClock(BaseStreamer):
    """Notes when the first new token is there. `generate` streams the prompt before it."""

    def __init__(self) -> None:
        self.calls = 0
        self.first = float("nan")

    def put(self, value: torch.Tensor) -> None:
        self.calls += 1
        if self.calls == 2:
            self.first = time.perf_counter()

    def end(self) -> None:
        """Nothing is left to be shown."""


def open_engine(settings: dict[str, Any]) -> AnswerPrompt:
    """The target, and the head where there is one, as what answers a prompt."""
    torch.set_num_threads(settings["threads"])
    is_quantised = settings["dtype"] == "int8"
    dtype = "float32" if is_quantised else settings["dtype"]
    target, _ = open_target(settings["target"], dtype=dtype)
    if is_quantised:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(target, Int8WeightOnlyConfig())
    if settings["mode"] == "compiled":
        eagle_hf.compile_target(target)
    head = None
    if settings["head"] is not None:
        head = open_head(settings["head"], target)

    def answer_prompt(prompt: list[int]) -> Answer:
        ids = torch.tensor([prompt])  # [1, S]
        clock = FirstTokenClock()
        started = time.perf_counter()
        output = target.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=settings["new_tokens"],
            eos_token_id=settings["stop"],
            pad_token_id=settings["stop"][0],
            do_sample=False,
            assistant_model=head,
            streamer=clock,
        )
        ended = time.perf_counter()
        new = output[0, len(prompt) :].tolist()
        accepted = None if head is None else sum(head.last_run.accepted)
        return Answer(new, len(new), ended - clock.first, ended - started, accepted)

    return answer_prompt


if __name__ == "__main__":
    serve(open_engine, ("torch", "transformers"))
