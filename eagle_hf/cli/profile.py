"""`eagle-hf profile`: where a round's time goes, operator by operator."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from eagle_hf.cli.command import Command
from eagle_hf.data import long_prompts, write_run
from eagle_hf.decoding.compiling import keeps_sizes
from eagle_hf.evaluation import TargetArguments, VocabularyArguments, open_head, open_target
from eagle_hf.evaluation.arguments import DtypeArguments
from eagle_hf.head.trees import TreeConfig
from eagle_hf.measuring.profiling import (
    profile_metrics,
    profile_page,
    profile_rounds,
    profile_text,
)
from eagle_hf.measuring.timing import random_ids
from eagle_hf.target import default_device

PAGE = "profile.html"
TRACE = "trace.json"


@dataclass(kw_only=True)
class ProfileArguments(TargetArguments, VocabularyArguments, DtypeArguments):
    """Which rounds, of which models, and where the page goes."""

    head: str | None = field(
        default=None,
        metadata={"help": "Folder or hub id of the draft head; without one, plain decoding."},
    )
    tree: str | None = field(
        default=None,
        metadata={
            "help": "policy:depth:top_k:nodes, e.g. dynamic:4:4:16 or chain:4:1:4 (default: the "
            "one saved with the head)."
        },
    )
    prompt_tokens: int = field(default=256, metadata={"help": "Length of the prompt."})
    rounds: int = field(default=20, metadata={"help": "Rounds that are timed."})
    compile: bool = field(
        default=False,
        metadata={"help": "Compile all forwards; on a GPU, tensors then have fixed sizes."},
    )
    output_dir: Path | None = field(
        default=None,
        metadata={"help": f"Folder for {PAGE}, {TRACE} and metrics.json."},
    )

    def __post_init__(self) -> None:
        if self.head is None and self.tree is not None:
            raise ValueError(
                f"tree is {self.tree!r}, but nobody drafts it; give --head, or leave --tree out"
            )
        self.check_head(self.head)
        if self.tree is not None:
            TreeConfig.parse(self.tree)
        for name in ("prompt_tokens", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.output_dir is not None and self.output_dir.is_file():
            raise ValueError(f"output_dir is {self.output_dir}, a file; give a folder")


def run(arguments: ProfileArguments) -> None:
    """Profile some rounds, print the tables, and write the page where a folder is given."""
    # 1) open both models
    target, tokenizer = open_target(
        arguments.target,
        arguments.adapter,
        tokenizer=arguments.tokenizer,
        dtype=arguments.dtype,
        compile=arguments.compile and not keeps_sizes(default_device()),
    )
    head = None
    if arguments.head is not None:
        tree = TreeConfig.parse(arguments.tree) if arguments.tree else "saved"
        head = open_head(arguments.head, target, tree=tree, vocab_size=arguments.vocab_size)

    # 2) decode
    folder = arguments.output_dir
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    profile = profile_rounds(
        target,
        head,
        make_prompt(arguments.prompt_tokens, target, tokenizer),
        rounds=arguments.rounds,
        keeps_size=arguments.compile and keeps_sizes(target.device),
        trace=None if folder is None else folder / TRACE,
    )

    # 3) report
    print(profile_text(profile), flush=True)
    if folder is not None:
        title = f"Where a round's time goes: {arguments.target}"
        (folder / PAGE).write_text(profile_page(profile, title), encoding="utf-8")
        print(f"\n{PAGE} is in {folder}; open {TRACE} beside it at https://ui.perfetto.dev\n")
        write_run(folder, asdict(arguments), profile_metrics(profile))


def make_prompt(length: int, target: Any, tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    """A prompt [1, length] of bundled text, or of random tokens where no chat template is known."""
    if tokenizer.chat_template is None:
        print(
            "the tokenizer has no chat template: the prompt is random tokens, so that tokens a "
            "round say little"
        )
        return random_ids(target, 1, length)
    return long_prompts(tokenizer, length, 1).to(target.device)


COMMAND = Command(
    name="profile",
    summary="where a round's time goes, operator by operator, against reading the weights",
    arguments=ProfileArguments,
    run=run,
)
