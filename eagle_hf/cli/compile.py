"""`eagle-hf compile`: compile the forwards of a target and its drafter beforehand."""

import time
from dataclasses import dataclass, field
from typing import Any

from tqdm.auto import tqdm

from eagle_hf.cli.command import Command
from eagle_hf.compilation.building import BuildError
from eagle_hf.compilation.forwards import (
    ExportedForward,
    FuseForward,
    HeadForward,
    LogitsForward,
    NodesForward,
)
from eagle_hf.compilation.keys import package_folder
from eagle_hf.compilation.packages import PackageError, make_forward, open_forward
from eagle_hf.decoding.compiling import obstacle
from eagle_hf.evaluation import (
    TargetArguments,
    VocabularyArguments,
    open_draft_model,
    open_head,
    open_target,
)
from eagle_hf.evaluation.arguments import DtypeArguments
from eagle_hf.target import aux_layer_ids, execution_device, text_decoder, unwrap


@dataclass(kw_only=True)
class CompileArguments(TargetArguments, VocabularyArguments, DtypeArguments):
    """Which target, and who drafts for it."""

    head: str | None = field(default=None, metadata={"help": "Folder or hub id of the draft head."})
    draft: str | None = field(
        default=None, metadata={"help": "A smaller model: hub id, folder or .gguf file."}
    )
    self_speculation: bool = field(
        default=False, metadata={"help": "The target drafts for itself behind a window."}
    )

    def __post_init__(self) -> None:
        self.check_head(self.head)


def run(arguments: CompileArguments) -> None:
    """Compile what is not kept yet, and say how long each forward took."""
    # 1) open the models
    target, tokenizer = open_target(
        arguments.target,
        arguments.adapter,
        tokenizer=arguments.tokenizer,
        dtype=arguments.dtype,
    )
    device = execution_device(target)
    if device.type != "cpu":
        raise ValueError(
            f"the target is on {device}; forwards are compiled beforehand for CPUs alone"
        )
    forwards = wanted_forwards(arguments, target, tokenizer)

    # 2) compile them
    bar = tqdm(forwards, unit="forward")
    for forward in bar:
        name = f"{type(unwrap(forward.model)).__name__}, {forward.name}"
        bar.set_description(name)
        bar.write(f"{name}: {compile_once(forward)}")
    print(f"kept in {package_folder(forwards[0]).parent}")


def wanted_forwards(arguments: CompileArguments, target: Any, tokenizer: Any) -> list:
    """The forwards of plain decoding, and of all that drafts."""
    forwards: list[ExportedForward] = [NodesForward(target)]
    if arguments.head is not None:
        head = open_head(arguments.head, target, vocab_size=arguments.vocab_size)
        layers = aux_layer_ids(target, head.config)
        forwards += [NodesForward(target, layers)]
        forwards += [HeadForward(head), FuseForward(head), LogitsForward(head)]
    drafting = []
    if arguments.draft is not None:
        drafting.append(open_draft_model(arguments.draft, target, tokenizer).model)
    if arguments.self_speculation:
        drafting.append(target)
    for model in drafting:
        forwards += [NodesForward(text_decoder(model)), LogitsForward(model)]
    return forwards


def compile_once(forward: ExportedForward) -> str:
    """Compile a forward unless it is kept; what was done, in a few words.

    Raises:
        ValueError: it cannot be compiled.
    """
    name = type(unwrap(forward.model)).__name__
    reason = obstacle(forward.model)
    if reason:
        raise ValueError(f"{name} is not compiled: {reason}")
    try:
        if open_forward(forward) is not None:
            return "kept already"
        started = time.perf_counter()
        make_forward(forward)
    except (BuildError, PackageError) as error:
        raise ValueError(f"{name} is not compiled: {error}") from error
    return f"compiled in {time.perf_counter() - started:.0f} s"


COMMAND = Command(
    name="compile",
    summary="compile a target's and a drafter's forwards for this CPU, and keep them",
    arguments=CompileArguments,
    run=run,
)
