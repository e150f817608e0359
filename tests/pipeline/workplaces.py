"""A folder for runs of a tiny target, with prompts."""

import json

from eagle_hf.pipeline import LocalExecutor, RunTarget, read_config, run_data


def prompt_rows(count=8, first=5):
    """Prompts of two words; the seventh has two turns."""
    rows = []
    for number in range(count):
        turns = [f"w{first + number} w{6 + number % 7}"]
        if number == 6:
            turns.append("w9 w9")
        rows.append({"id": f"q{number}", "turns": turns, "category": "words"})
    return rows


def write_prompt_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Workplace:
    """An output folder, and runs into it."""

    def __init__(self, folder, target_folder):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.output = folder / "out"
        self.file = folder / "mine.jsonl"
        write_prompt_file(self.file, prompt_rows())
        self.flags = {
            "target": str(target_folder),
            "target_dtype": "float32",
            "output_dir": str(self.output),
            "steps": ["prompts", "privacy", "answers", "conversations", "examples", "features"],
            "prompts.sources": [str(self.file)],
            "answers.max_new_tokens": 12,
            "answers.batch_size": 4,
            "features.storage_dtype": "float32",
        }

    def config(self, **changes):
        named = {name.replace("__", "."): value for name, value in changes.items()}
        flags = self.flags | named
        if "features" not in flags["steps"]:
            del flags["features.storage_dtype"]
        return read_config(None, flags)

    def run(self, only=(), shard=None, **changes):
        config = self.config(**changes)
        target = RunTarget(config)
        return run_data(config, target, LocalExecutor(target), only=only, shard=shard)

    def rows(self, name):
        path = self.output / name
        return [json.loads(line) for line in path.read_text().splitlines()]
