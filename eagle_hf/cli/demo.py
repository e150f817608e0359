"""`eagle-hf demo`: watch the target answer alone and with the head, in a browser."""

from dataclasses import dataclass, field

from eagle_hf.cli.command import Command
from eagle_hf.compat import quiet_libraries
from eagle_hf.demo import DemoModels, serve
from eagle_hf.demo.page import load_gradio
from eagle_hf.evaluation.arguments import DtypeArguments, TargetArguments

HIGHEST_PORT = 65535


@dataclass(kw_only=True)
class DemoArguments(TargetArguments, DtypeArguments):
    """Who answers, and where the page is."""

    target: str = field(
        default="smollm2", metadata={"help": "Hub id, folder, .gguf file, or smollm2."}
    )
    head: str | None = field(
        default=None,
        metadata={"help": "Folder or hub id of the draft head; default: the project's own."},
    )
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen at; another one lets other machines in."},
    )
    port: int = field(default=7860, metadata={"help": "Port of the page."})

    def __post_init__(self) -> None:
        if not 0 < self.port <= HIGHEST_PORT:
            raise ValueError(f"port is {self.port}; give one from 1 to {HIGHEST_PORT}")


def run(arguments: DemoArguments) -> None:
    """Open target and head, answer once to warm up, and serve the page until Ctrl-C."""
    load_gradio()  # what is cheap to miss comes first
    with quiet_libraries():
        print(f"opening {arguments.target} and its head", flush=True)
        models = DemoModels.open(
            arguments.target,
            arguments.head,
            adapter=arguments.adapter,
            tokenizer=arguments.tokenizer,
            dtype=arguments.dtype,
        )
        models.warm_up()
        serve(models, arguments.host, arguments.port)


COMMAND = Command(
    name="demo",
    summary="a page that shows the target alone and with the head, side by side",
    arguments=DemoArguments,
    run=run,
)
