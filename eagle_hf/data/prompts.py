"""User turns: bundled, read from a file or a dataset, or sampled from the target itself (Magpie).

A prompt is a plain dict `{"id", "turns": [user turn, ...], "category", "source"}`, with "system" where
the conversation had one. Only user turns are kept: the answers must be the target's own.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "model": "assistant",
}
COLUMNS = ("turns", "messages", "conversations", "prompt", "instruction")


class Skipped(NamedTuple):
    """A row left out: its line (from 1; dataset rows from 0) and why."""

    line: int
    reason: str


def bundled_prompts(name: str) -> Path:
    """The file of a bundled prompt set, such as "train_math_reasoning_gym"; see bundled/SOURCES.md."""
    folder = Path(str(resources.files("eagle_hf.data") / "bundled"))
    path = folder / f"{name}.jsonl"
    names = sorted(file.stem for file in folder.glob("*.jsonl"))
    if name not in names:
        raise ValueError(f"no bundled prompts are called {name!r}; take one of {', '.join(names)}")
    return path


def read_prompts(path: str | Path) -> tuple[list[dict], list[Skipped]]:
    """The prompts of a JSON-lines file, and every line that gave none, with its reason.

    Rows may hold `turns`, `messages`, `conversations` (from/value), `prompt` or `instruction` + `input`.
    A bad line never stops the reading; a file without a usable line is a ValueError.
    """
    path = Path(path)
    with path.open("rb") as lines:
        return _collect(
            enumerate(map(_parse_line, lines), start=1), path.stem, f"lines of {path.name}"
        )


def prompts_from_dataset(
    dataset: Iterable[Mapping], source: str = "dataset"
) -> tuple[list[dict], list[Skipped]]:
    """The prompts of any iterable of rows (a datasets.Dataset, an IterableDataset, a list), as `read_prompts`."""
    if isinstance(dataset, Mapping):
        raise ValueError(
            f"a mapping of splits {sorted(map(str, dataset))} arrived; pass one of them, dataset['train']"
        )
    return _collect(enumerate(dataset), source, "rows")


def evenly_spread(rows: Sequence, count: int | None) -> list:
    """At most `count` of the rows, evenly spread over them; all where count is None."""
    count = len(rows) if count is None else min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def gather_prompts(names: Iterable[str], per_file: int | None = None) -> list[dict]:
    """The prompts of .jsonl files and bundled sets, at most `per_file` of each; how many lines were skipped is printed."""
    prompts = []
    for name in names:
        rows, skipped = read_prompts(name if name.endswith(".jsonl") else bundled_prompts(name))
        if skipped:
            print(
                f"{name}: {len(skipped)} lines skipped, the first: line {skipped[0].line}, {skipped[0].reason}"
            )
        prompts += evenly_spread(rows, per_file)
    return prompts


def write_prompts(path: str | Path, prompts: Iterable[dict]) -> None:
    """A JSON-lines file that `read_prompts` reads; it appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(
        "".join(json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in prompts),
        encoding="utf-8",
    )
    scratch.replace(path)


def _collect(
    rows: Iterable[tuple[int, object]], source: str, what: str
) -> tuple[list[dict], list[Skipped]]:
    prompts, skipped, seen = [], [], set()
    for number, row in rows:
        try:
            prompt = prompt_from_row(row, default_id=f"{source}-{number}", source=source)
            if prompt["id"] in seen:
                raise ValueError(f"the id {prompt['id']!r} was used before")
        except ValueError as error:
            skipped.append(Skipped(number, str(error)))
            continue
        seen.add(prompt["id"])
        prompts.append(prompt)
    if not prompts:
        reasons = (
            "; ".join(f"{line}: {reason}" for line, reason in skipped[:3]) or "there were none"
        )
        raise ValueError(
            f"none of {len(skipped)} {what} holds a prompt ({reasons}); one of {COLUMNS} is needed"
        )
    return prompts, skipped


def _parse_line(line: bytes):
    """The line's JSON value, or the ValueError that it deserves, for `prompt_from_row` to raise in its place."""
    try:
        text = line.decode("utf-8-sig").strip()
        return json.loads(text) if text else ValueError("empty line")
    except UnicodeDecodeError as error:
        return ValueError(f"not UTF-8: {error.reason} at byte {error.start}")
    except json.JSONDecodeError as error:
        return ValueError(f"not JSON: {error}")
    except (ValueError, RecursionError) as error:
        return ValueError(f"not readable as JSON: {error}")


def prompt_from_row(row, *, default_id: str, source: str) -> dict:
    """The prompt a row holds; ValueError with the reason where it holds none."""
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, Mapping):
        raise ValueError(f"the row is of type {type(row).__name__}; a mapping is needed")
    column = next((name for name in COLUMNS if row.get(name) is not None), None)
    if column is None:
        plain = (
            "only plain text, which has no user turn"
            if row.get("text") is not None
            else f"the columns {list(row)}"
        )
        raise ValueError(f"the row has {plain}; one of {COLUMNS} is needed")
    turns, system = _TURNS[column](row[column], row)
    system = row.get("system") if system is None else system
    prompt = {
        "id": _id(row, default_id),
        "turns": [_text(turn, f"turn {number} of {column!r}") for number, turn in enumerate(turns)],
        "category": _word(row, "category", "other"),
        "source": _word(row, "source", source),
    }
    if not prompt["turns"]:
        raise ValueError(f"{column!r} has no user turn")
    return prompt | ({"system": _text(system, "the system message")} if system else {})


def _turns(value, row) -> tuple[list, None]:
    if not isinstance(value, list):
        raise ValueError(f"'turns' is of type {type(value).__name__}; a list of texts is needed")
    return value, None


def _messages(value, row) -> tuple[list, str | None]:
    """The user turns and the system message of a list of role/content or from/value messages."""
    if not isinstance(value, list):
        raise ValueError(f"the messages are of type {type(value).__name__}; a list is needed")
    turns, system = [], None
    for message in value:
        if not isinstance(message, Mapping):
            raise ValueError(f"a message is of type {type(message).__name__}; a mapping is needed")
        role = message.get("role") or message.get("from")
        role = ROLES.get(role, role) if isinstance(role, str) else role
        content = message.get("content") if "content" in message else message.get("value")
        if role == "user":
            turns.append(content)
        elif role == "system" and system is None and not turns:
            system = content
        elif role != "assistant":
            raise ValueError(
                f"a message of role {role!r} in this place; only system first, then user and assistant"
            )
    return turns, system


def _prompt(value, row) -> tuple[list, str | None]:
    return _messages(value, row) if isinstance(value, list) else ([value], None)


def _instruction(value, row) -> tuple[list, None]:
    extra = row.get("input")
    if extra is not None and not isinstance(extra, str):
        raise ValueError(f"'input' is of type {type(extra).__name__}; text is needed")
    return [f"{_text(value, 'instruction')}\n\n{extra}" if extra and extra.strip() else value], None


_TURNS = dict(zip(COLUMNS, (_turns, _messages, _messages, _prompt, _instruction), strict=True))


def _text(value, what: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what} is of type {type(value).__name__}; text is needed")
    if not value.strip():
        raise ValueError(f"{what} is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"{what} holds half a surrogate pair, which no tokenizer can read")
    return value


def _id(row: Mapping, default: str) -> str:
    value = row.get("id")
    if value is None or value == "":
        return default
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(
            f"'id' is of type {type(value).__name__}; text or a whole number is needed"
        )
    return _text(str(value), "'id'")


def _word(row: Mapping, key: str, default: str) -> str:
    value = row.get(key)
    return _text(value, f"{key!r}") if value not in (None, "") else default
