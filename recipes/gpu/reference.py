"""The reference head on a GPU: the target's own conversations, and a head that learns from them.

The target may come in pieces that a slow line carries one by one (`split`); they are joined and
checked by their SHA-256. Talks are made for some seconds, every recipe is tried for some, and the
best one trains for what is left. The head is evaluated and written in shards.

Hardware: one CUDA GPU with 80 GB, or a CPU at toy size.
Duration: the seconds asked for.
Command:  python recipes/gpu/reference.py split --file smollm2.gguf --parts 2 --output_dir pieces
          python recipes/gpu/reference.py make --target pieces --seconds 90 --until 440 \\
              --recipes shipped scaled --output_dir outputs/gpu
Expected: OUTPUT/talks.npz, and OUTPUT/head, to be measured by `eagle-hf evaluate`.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from answers import Talks
from cells import Cell, Setting
from learn import RECIPES, read_talks, save_talks, train
from models import SHAPES, known_target
from pieces import NAMES, joined, split
from transformers import AutoTokenizer

from eagle_hf import DecodingStats, Eagle3DraftHead, TreeConfig, load_target
from eagle_hf.data import Example, load_suite
from eagle_hf.evaluation import collect_stats

STARTED = time.perf_counter()
LARGEST_SHARD = 16 * 2**20  # bytes of a file of weights, for slow lines
CARD = Path(__file__).parents[2] / "model_cards/smollm2-135m-instruct-eagle3"

REHEARSED = {
    "seconds": 60,
    "most_talks": 6,
    "try_seconds": 1,
    "train_seconds": 3,
    "closing": 15,
    "rows": 8,
    "size": 256,
    "draft_vocab_size": 256,
    "eval_prompts": 1,
    "eval_tokens": 12,
}


class Making:
    """The steps from a target to a head; each gives its record, and needs the ones before it.

    Args:
        arguments: of `make`.
    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.folder: Path = arguments.output_dir
        self.started = time.perf_counter()
        self.model: Any = None
        self.tokenizer: Any = None
        self.head: Any = None
        self.recipe = ""
        self.talks: Path = arguments.talks or self.folder / "talks.npz"

    def steps(self) -> dict[str, Callable[[], dict]]:
        """All steps by name, in their order."""
        return {
            "target": self.open,
            "conversations": self.talk,
            "recipes tried": self.choose,
            "training": self.train,
            "held out": self.evaluate,
            "head written": self.write,
        }

    def open(self) -> dict:
        """Join the pieces of the target where it comes in pieces, and open it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = self.arguments.target
        if name in SHAPES:
            name = random_target(name, self.folder / "target")
        elif (Path(name) / NAMES).is_file():
            name = str(joined(Path(name)))
        on_gpu = torch.cuda.is_available() and not self.arguments.cpu
        dtype = torch.bfloat16 if on_gpu else torch.float32
        device = "cuda" if on_gpu else "cpu"
        self.model, self.tokenizer = load_target(name, dtype=dtype, device=device)
        return {"target": Path(name).name, "dtype": str(dtype), "device": device}

    def talk(self) -> dict:
        """Let the target talk with itself, unless that was done before."""
        needs(self.model, "the target was not opened")
        if self.arguments.talks:
            return {"made_before": self.talks.name, "conversations": len(read_talks(self.talks))}
        return make_talks(self.arguments, self.model, self.tokenizer, self.talks)

    def choose(self) -> dict:
        """Try every recipe for some seconds; where there is one alone, it is taken."""
        rows = self.rows()
        self.model.set_attn_implementation("sdpa")
        recipes = self.arguments.recipes
        self.recipe = recipes[0]
        if len(recipes) == 1:
            return {"recipe": self.recipe, "agreements": None}
        agreements, errors = try_recipes(self.arguments, self.model, rows)
        if agreements:
            self.recipe = max(agreements, key=agreements.__getitem__)
        return {"recipe": self.recipe, "agreements": agreements, "errors": errors}

    def train(self) -> dict:
        """Train the best recipe for what is left of the time."""
        rows = self.rows()
        needs(self.recipe, "no recipe was chosen")
        passed = time.perf_counter() - self.started
        seconds = self.arguments.until - passed - self.arguments.closing
        if seconds < 1:
            raise ValueError(f"{passed:.0f} of {self.arguments.until:.0f} s are over")
        if self.arguments.train_seconds is not None:
            seconds = min(seconds, self.arguments.train_seconds)
        self.model.set_attn_implementation("sdpa")
        folder = self.folder / self.recipe
        size = self.arguments.draft_vocab_size
        recipe = RECIPES[self.recipe]
        head, agreement = train(recipe, self.model, rows, seconds / 60, folder, size)
        self.head = head.to(self.model.dtype)
        # at once: what follows may run out of time
        self.head.save_pretrained(self.folder / "head", max_shard_size=LARGEST_SHARD)
        made = json.loads((folder / "result.json").read_text())
        return {"recipe": self.recipe, "seconds": seconds, "agreement": agreement} | made

    def evaluate(self) -> dict:
        """tau on held-out prompts, by category: greedy, a chain of 4."""
        needs(self.head, "no head was trained")
        self.head.eval()
        self.head.tree = TreeConfig("chain", depth=4)
        prompts = load_suite(per_category=self.arguments.eval_prompts)
        by_category: dict[str, list] = {}
        stats = collect_stats(
            self.model,
            self.tokenizer,
            self.head,
            prompts,
            max_new_tokens=self.arguments.eval_tokens,
            progress=False,
        )
        for prompt, found in zip(prompts, stats, strict=True):
            by_category.setdefault(prompt["category"], []).append(found)
        taus = {}
        for category, found in by_category.items():
            taus[category] = round(sum(found, DecodingStats(rows=0)).tau, 3)
        whole = sum(stats, DecodingStats(rows=0)).tau
        return {"tree": "chain of 4", "prompts": len(prompts), "tau": whole, "by_category": taus}

    def write(self) -> dict:
        """Say what was written, and that it opens."""
        needs(self.head, "no head was trained")
        folder = self.folder / "head"
        Eagle3DraftHead.from_pretrained(folder)
        files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        return {"folder": folder.name, "bytes": files}

    def rows(self) -> list[Example]:
        """The conversations."""
        needs(self.model, "the target was not opened")
        if not self.talks.is_file():
            raise ValueError("no conversations were made")
        return read_talks(self.talks)


def needs(value: Any, missing: str) -> None:
    """Refuse a step whose forerunner failed.

    Raises:
        ValueError: there is no value.
    """
    if not value:
        raise ValueError(missing)


def make_talks(arguments: argparse.Namespace, model: Any, tokenizer: Any, file: Path) -> dict:
    """Let the target talk with itself, and write down what it says."""
    started = time.perf_counter()
    maker = Talks(model, tokenizer, arguments.rows, arguments.size)
    begun = time.perf_counter()
    talks = list(islice(maker.run(arguments.seconds), arguments.most_talks))
    ended = time.perf_counter()
    if not talks:
        raise ValueError(f"no conversation came to an end in {arguments.seconds:.0f} s")
    save_talks(talks, file)
    answered = sum(sum(end - start for start, end in talk.answers) for talk in talks)
    return {
        "ready_s": begun - started,
        "seconds": ended - begun,
        "saved_s": time.perf_counter() - ended,
        "conversations": len(talks),
        "tokens": sum(len(talk.ids) for talk in talks),
        "answer_tokens": answered,
        "answer_tokens_s": answered / (ended - begun),
        "sources": Counter(talk.source for talk in talks),
        "refused": maker.refused,
    }


def try_recipes(
    arguments: argparse.Namespace, model: Any, rows: list[Example]
) -> tuple[dict[str, float], dict[str, str]]:
    """(how often every recipe agrees with the target after a short training; what failed)."""
    agreements = {}
    errors = {}
    minutes = arguments.try_seconds / 60
    for name in arguments.recipes:
        folder = arguments.output_dir / f"try-{name}"
        size = arguments.draft_vocab_size
        try:
            _, agreements[name] = train(RECIPES[name], model, rows, minutes, folder, size)
        except Exception as error:  # another recipe may work
            errors[name] = f"{type(error).__name__}: {error}"[:500]
    return agreements, errors


def say(stage: str, **record: Any) -> None:
    """A record on the screen, with the seconds since the start."""
    print(json.dumps({"stage": stage, "at_s": time.perf_counter() - STARTED} | record), flush=True)


def random_target(shape: str, folder: Path) -> str:
    """A Llama of a shape without real weights, with the tokenizer of the shipped head."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known_target(SHAPES[shape], torch.float32, device).save_pretrained(folder)
    AutoTokenizer.from_pretrained(CARD).save_pretrained(folder)
    return str(folder)


def make(arguments: argparse.Namespace) -> None:
    """Every step, with its record on the screen."""
    for name, step in Making(arguments).steps().items():
        say(name, **step())


def cells(setting: Setting) -> list[Cell]:
    """The steps of a reference head within a stage's seconds."""
    target = "toy words" if setting.rehearse else setting.target
    flags = ["make", "--target", target, "--output_dir", str(setting.folder)]
    arguments = parser().parse_args(flags)
    arguments.until = setting.seconds
    arguments.talks = setting.talks
    arguments.cpu = setting.rehearse
    # of 440 seconds: 170 of conversations, 2 x 13 of trials, 35 of evaluation
    arguments.seconds = 0.39 * setting.seconds
    arguments.try_seconds = 0.03 * setting.seconds
    arguments.closing = max(30.0, 0.08 * setting.seconds)
    if setting.rehearse:
        vars(arguments).update(REHEARSED)
    steps = Making(arguments).steps()
    return [Cell(name, step) for name, step in steps.items()]


def parser() -> argparse.ArgumentParser:
    """The commands and their flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    splitting = commands.add_parser("split", help="a file as parts")
    splitting.add_argument("--file", required=True, type=Path)
    splitting.add_argument("--parts", type=int, default=2)
    splitting.add_argument("--output_dir", required=True, type=Path)
    making = commands.add_parser("make", help="talks and heads")
    making.add_argument(
        "--target", required=True, help="Folder of pieces, a target, or a shape to try it with."
    )
    making.add_argument("--talks", type=Path, help="Made already.")
    making.add_argument("--seconds", type=float, default=100)
    making.add_argument("--most_talks", type=int, help="Conversations; default: as many as come.")
    making.add_argument("--train_seconds", type=float, help="Default: what is left.")
    making.add_argument("--try_seconds", type=float, default=20, help="Of training each recipe.")
    making.add_argument("--until", type=float, default=440, help="Seconds, from the start.")
    making.add_argument("--rows", type=int, default=1024)
    making.add_argument("--size", type=int, default=1024)
    making.add_argument("--recipes", nargs="+", default=["shipped", "scaled"])
    making.add_argument("--draft_vocab_size", type=int, default=8192)
    making.add_argument("--eval_prompts", type=int, default=6, help="Of each category.")
    making.add_argument("--eval_tokens", type=int, default=128, help="Of each answer.")
    making.add_argument("--closing", type=float, default=30, help="Seconds behind the training.")
    making.add_argument("--cpu", action="store_true", help="Compute on the CPU.")
    making.add_argument("--output_dir", required=True, type=Path)
    return parser


def main() -> None:
    arguments = parser().parse_args()
    if arguments.command == "split":
        split(arguments.file, arguments.parts, arguments.output_dir)
    else:
        make(arguments)


if __name__ == "__main__":
    main()
