"""The top of the command line: all sub-commands, and what becomes of their errors."""

import argparse
import sys

from eagle_hf.cli import (
    bench_serving,
    check,
    compile,
    data,
    demo,
    evaluate,
    export,
    follow,
    merge,
    pair,
    plan,
    profile,
    quickstart,
    report,
    roofline,
    serve,
    show_mask,
    targets,
)
from eagle_hf.cli.command import Command
from eagle_hf.data.manifest import library_versions

COMMANDS: tuple[Command, ...] = (
    quickstart.COMMAND,
    demo.COMMAND,
    data.COMMAND,
    evaluate.COMMAND,
    bench_serving.COMMAND,
    pair.COMMAND,
    plan.COMMAND,
    compile.COMMAND,
    profile.COMMAND,
    targets.COMMAND,
    check.COMMAND,
    export.COMMAND,
    serve.COMMAND,
    merge.COMMAND,
    follow.COMMAND,
    show_mask.COMMAND,
    roofline.COMMAND,
    report.COMMAND,
)


class ShowVersions(argparse.Action):
    """`--version`: print what a report of a bug needs, and end."""

    def __call__(self, parser: argparse.ArgumentParser, *args: object, **kwargs: object) -> None:
        for name, version in library_versions().items():
            print(f"{name} {version}")
        parser.exit()


def main(arguments: list[str] | None = None) -> int:
    """Run a sub-command.

    Args:
        arguments: the words after `eagle-hf`; default: those of this process.

    Returns:
        The exit status. Errors that a caller can correct are one line on stderr and status 2.
    """
    options = parser().parse_args(arguments)
    command: Command = options.chosen
    try:
        return command.run(command.read_flags(options)) or 0
    except (ValueError, OSError) as error:
        print(f"eagle-hf {command.name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\ninterrupted; the same command goes on from the last finished step", file=sys.stderr
        )
        return 130


def parser() -> argparse.ArgumentParser:
    """Build the parser of all sub-commands.

    Returns:
        The parser. What it parses has the command's fields, and the `Command` as `chosen`.
    """
    top = argparse.ArgumentParser(
        prog="eagle-hf", description="Draft heads for Hugging Face causal LMs."
    )
    top.add_argument("--version", action=ShowVersions, nargs=0, help="print versions and exit")
    names = top.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        part = names.add_parser(command.name, help=command.summary, description=command.summary)
        command.add_flags(part)
        part.set_defaults(chosen=command)
    return top
