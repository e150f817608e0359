"""How every engine serves a head, for its card."""

from eagle_hf.head.configuration import Eagle3Config
from eagle_hf.hub.cards.markdown import escape_text
from eagle_hf.hub.engines import SERVERS, Engine
from eagle_hf.hub.publish import PLACEHOLDER
from eagle_hf.hub.serve import ServeCommand, serve_command


def describe_serving(config: Eagle3Config, base_model: str) -> str:
    """Every engine's launch command for this head, and what to know before.

    Caveats that hold on every engine stand once, at the end.
    """
    commands: dict[Engine, ServeCommand] = {}
    parts = []
    for engine in SERVERS:
        try:
            commands[engine] = serve_command(base_model, PLACEHOLDER, engine.key, config=config)
        except ValueError as error:
            reason = escape_text(str(error))
            parts.append(f"### {engine.full_name}\n\nNot with this head: {reason}.")
    sources_of = _collect_caveats(list(commands.values()))
    # As many sources as engines: the caveat holds on all of them.
    shared = []
    if len(commands) > 1:
        shared = [text for text, sources in sources_of.items() if len(sources) == len(commands)]
    for engine, command in commands.items():
        parts.append(_describe_engine(engine, command, shared))
    if shared:
        parts.append(_describe_shared(shared, sources_of))
    return "\n\n".join(parts)


def _collect_caveats(commands: list[ServeCommand]) -> dict[str, list[str]]:
    """Text of each caveat -> its source on every engine that has it."""
    sources_of: dict[str, list[str]] = {}
    for command in commands:
        for caveat in command.caveats:
            sources_of.setdefault(caveat.text, []).append(caveat.source)
    return sources_of


def _describe_engine(engine: Engine, command: ServeCommand, shared: list[str]) -> str:
    """The script of one engine, and the caveats that are its own."""
    caveats = []
    for caveat in command.caveats:
        if caveat.text not in shared:
            caveats.append(f"- {escape_text(caveat.text)} ({caveat.source})")
    script = "\n".join(command.lines)
    listed = "\n".join(caveats)
    return f"### {engine.full_name}\n\n```sh\n{script}\n```\n\n{command.version}\n\n{listed}"


def _describe_shared(shared: list[str], sources_of: dict[str, list[str]]) -> str:
    """The caveats that every engine has, each with all its sources."""
    caveats = []
    for text in shared:
        # Engines of one source are cited once.
        sources = "; ".join(dict.fromkeys(sources_of[text]))
        caveats.append(f"- {escape_text(text)} ({sources})")
    listed = "\n".join(caveats)
    return f"### On every engine\n\n{listed}"
