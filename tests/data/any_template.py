"""Any chat template with a byte tokenizer that knows its markers, and what it must teach."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from chat_templates import byte_alphabet
from template_archives import LLAMACPP
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eagle_hf.data import TemplateArguments, tokenize_conversations
from eagle_hf.data.templates.template import render_text

MARKER = re.compile(
    r"<[|｜][^<>'\"{}\n]+?[|｜]>|<[a-z_]+[|]>|<\|[a-z_]+>|</?(?:start|end)_of_turn>|\[gMASK\]|<sop>"
    r"|</?s>|\[/?[A-Z_]{3,}\]|<seed:[a-z:]+>|\]~!?b\[?\]?|\[e~\[|<SPECIAL_\d+>|<sep>"
    r"|<end_of_utterance>|<(?:beginning|end)_of_sentence>|</?(?:user|assistant|system)>"
)
# Where the marker behind an answer is not what the target ends its turn with.
ENDS = {
    "gptoss": ("<|return|>", "<|call|>"),
    "openai-gpt-oss-120b": ("<|return|>", "<|call|>"),
    "cohere2": ("<|END_OF_TURN_TOKEN|>",),
    "Cohere2MoE": ("<|END_OF_TURN_TOKEN|>",),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("<|END_OF_TURN_TOKEN|>",),
    "Kimi-K3": ("<|end_of_msg|>",),
}
USES = [{"role": "user", "content": "ask one"}, {"role": "assistant", "content": "answer one"}]
USES += [{"role": "user", "content": "ask two"}, {"role": "assistant", "content": "answer two"}]


def template_files() -> dict[str, Path]:
    """Every chat template at hand by its source and name; trl's training twins are left out."""
    files = {}
    trl = find_spec("trl")
    if trl is not None and trl.origin is not None:
        for file in sorted((Path(trl.origin).parent / "chat_templates").glob("*.jinja")):
            if not file.stem.endswith("_training"):
                files[f"trl/{file.stem}"] = file
    for file in sorted(LLAMACPP.glob("*.jinja")):
        files[f"llamacpp/{file.stem}"] = file
    return files


def marked_tokenizer(
    source: str, extra: tuple[str, ...] = (), bos: str = "<bos>", eos: str = "<eos>"
) -> PreTrainedTokenizerFast:
    """A byte tokenizer for which each marker of a template is one special token."""
    backend = Tokenizer(models.BPE(vocab=byte_alphabet(), merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(sorted({*MARKER.findall(source), *extra, bos, eos}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = source
    return tokenizer


def special_texts(tokenizer: Any) -> set[str]:
    """The texts of the special tokens."""
    return {token.content for token in tokenizer.added_tokens_decoder.values()}


def end_texts(name: str, tokenizer: Any) -> set[str]:
    """What ends a turn: the marker behind an answer, or what is known of the family.

    Raises:
        ValueError: the template refuses a plain conversation.
    """
    known = ENDS.get(name.split("/")[1])
    if known is not None:
        return {*known, tokenizer.eos_token}
    ends = {tokenizer.eos_token}
    text = render_text(tokenizer, USES)
    for answer in ("answer one", "answer two"):
        behind = text.split(answer, 1)[1].lstrip()
        found = [marker for marker in special_texts(tokenizer) if behind.startswith(marker)]
        if found:
            ends.add(max(found, key=len))
    return ends


class Said(NamedTuple):
    """One answer as text: what came before it, and what is learnt."""

    prompt: str
    answer: str


def said_by_the_text(
    tokenizer: Any, messages: list[dict], index: int, ends: set[str], variables: dict[str, Any]
) -> Said | None:
    """What answer `index` is by the rendered text; None where it does not follow its prompt."""
    arguments = TemplateArguments(variables)

    def render(part: list[dict], add_generation_prompt: bool = False) -> str:
        return render_text(
            tokenizer, part, add_generation_prompt=add_generation_prompt, arguments=arguments
        )

    prompt = render(messages[:index], add_generation_prompt=True)
    full = render(messages[: index + 1])
    if not full.startswith(prompt):
        return None
    said = full[len(prompt) :]
    stops = [said.index(end) + len(end) for end in ends if end in said]
    if stops:
        return Said(prompt, said[: min(stops)])
    # Without an end of its own, an answer ends at the next role's marker.
    going_on = render([*messages[: index + 1], {"role": "user", "content": "more"}])
    behind = going_on[len(full) :]
    next_marker = [end for end in ends if behind.startswith(end)]
    return Said(prompt, said + "".join(next_marker))


def said_by_the_examples(tokenizer: Any, examples: list) -> list[Said]:
    """Each run of learnt tokens with what stands before it."""
    found = []
    for example in examples:
        ids = example["input_ids"]
        mask = [*example["loss_mask"], 0]
        begin = None
        for position, is_learnt in enumerate(mask):
            if is_learnt and begin is None:
                begin = position
            elif not is_learnt and begin is not None:
                found.append(
                    Said(tokenizer.decode(ids[:begin]), tokenizer.decode(ids[begin:position]))
                )
                begin = None
    return found


def learn(
    tokenizer: Any, messages: list[dict], ends: set[str], train_on: str = "all", **row: Any
) -> tuple[list, list]:
    """(examples, reasons) of one conversation; a refused one has no examples."""
    stop = {tokenizer.convert_tokens_to_ids(end) for end in ends}
    rows = [{"id": "a", "messages": messages, **row}]
    try:
        examples, skipped = tokenize_conversations(
            rows, tokenizer, eos_token_ids=stop, max_length=None, train_on=train_on
        )
    except ValueError as error:
        return [], [str(error)]
    return examples, [one.reason for one in skipped]
