"""The reference head on a GPU: the target's own conversations, and a head that learns from them.

The target may come in pieces that a slow line carries one by one (`split`); they are joined and
checked by their SHA-256. Talks are made for some seconds, every recipe is tried for some, and the
best one trains for what is left.

Hardware: one CUDA GPU with 80 GB, or a CPU at toy size.
Duration: the seconds asked for.
Command:  python recipes/gpu/reference.py split --file smollm2.gguf --parts 2 --output_dir pieces
          python recipes/gpu/reference.py make --target pieces --seconds 90 --until 440 \\
              --recipes shipped scaled --output_dir outputs/gpu
Expected: OUTPUT/talks.npz, and OUTPUT/head, to be measured by `eagle-hf evaluate`.
"""

import argparse
import hashlib
import json
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from answers import Talks
from learn import RECIPES, read_talks, train
from models import SHAPES, known_target
from transformers import AutoTokenizer

from eagle_hf import load_target
from eagle_hf.data import Example

STARTED = time.perf_counter()
CLOSING = 12  # seconds between training and the end
NAMES = "pieces.json"
CARD = Path(__file__).parents[2] / "model_cards/smollm2-135m-instruct-eagle3"


def split(file: Path, parts: int, folder: Path) -> None:
    """Write a file as so many parts, and what they add up to."""
    content = file.read_bytes()
    size = -(-len(content) // parts)
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for part in range(parts):
        names.append(f"{file.name}.{part}")
        (folder / names[-1]).write_bytes(content[part * size : (part + 1) * size])
    sums = {"name": file.name, "parts": names, "sha256": hashlib.sha256(content).hexdigest()}
    (folder / NAMES).write_text(json.dumps(sums))


def joined(folder: Path) -> Path:
    """The file whose parts lie in a folder."""
    sums = json.loads((folder / NAMES).read_text())
    content = b"".join((folder / name).read_bytes() for name in sums["parts"])
    found = hashlib.sha256(content).hexdigest()
    if found != sums["sha256"]:
        raise ValueError(
            f"the parts in {folder} have the SHA-256 {found}, not {sums['sha256']}; carry them anew"
        )
    file = folder / sums["name"]
    file.write_bytes(content)
    return file


def save_talks(talks: list, file: Path) -> None:
    """Write conversations in two bytes a token, and a bit that says whether it is an answer's."""
    ids = [token for talk in talks for token in talk.ids]
    mask = [learnt for talk in talks for learnt in talk.mask()]
    np.savez_compressed(
        file,
        ids=np.array(ids, dtype=np.uint16),
        mask=np.packbits(np.array(mask, dtype=bool)),
        lengths=np.array([len(talk.ids) for talk in talks], dtype=np.int32),
        temperatures=np.array([talk.temperature for talk in talks], dtype=np.float32),
    )


def make_talks(arguments: argparse.Namespace, model: Any, tokenizer: Any, file: Path) -> None:
    """Let the target talk with itself."""
    started = time.perf_counter()
    maker = Talks(model, tokenizer, arguments.rows, arguments.size)
    begun = time.perf_counter()
    talks = list(maker.run(arguments.seconds))
    ended = time.perf_counter()
    save_talks(talks, file)
    answered = sum(sum(end - start for start, end in talk.answers) for talk in talks)
    say(
        "talks",
        ready_s=begun - started,
        seconds=ended - begun,
        saved_s=time.perf_counter() - ended,
        conversations=len(talks),
        tokens=sum(len(talk.ids) for talk in talks),
        answer_tokens=answered,
        answer_tokens_s=answered / (ended - begun),
        sources=Counter(talk.source for talk in talks),
        refused=maker.refused,
    )


def say(stage: str, **record: Any) -> None:
    """A record on the screen, with the seconds since the start."""
    print(json.dumps({"stage": stage, "at_s": time.perf_counter() - STARTED} | record), flush=True)


def best_recipe(arguments: argparse.Namespace, model: Any, rows: list[Example]) -> str:
    """The recipe that agrees most with the target after a short training."""
    agreements = {}
    for recipe in arguments.recipes:
        folder = arguments.output_dir / f"try-{recipe}"
        try:
            _, agreements[recipe] = train(
                RECIPES[recipe],
                model,
                rows,
                arguments.try_seconds / 60,
                folder,
                arguments.draft_vocab_size,
            )
        except Exception:  # another recipe may work
            say("try", recipe=recipe, error=traceback.format_exc()[-2000:])
        torch.cuda.empty_cache()
    say("try", agreements=agreements)
    return max(agreements, key=agreements.__getitem__, default=arguments.recipes[0])


def random_target(shape: str, folder: Path) -> str:
    """A Llama of a shape without real weights, with the tokenizer of the shipped head."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    known_target(SHAPES[shape], torch.float32, device).save_pretrained(folder)
    AutoTokenizer.from_pretrained(CARD).save_pretrained(folder)
    return str(folder)


def make(arguments: argparse.Namespace) -> None:
    """Talks, then the head of the best recipe."""
    folder = arguments.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    name = arguments.target
    if name in SHAPES:
        name = random_target(name, folder / "target")
    elif (Path(name) / NAMES).is_file():
        name = str(joined(Path(name)))
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    model, tokenizer = load_target(name, dtype=dtype, device="cuda" if on_gpu else "cpu")
    say("opened", target=name)
    talks = arguments.talks or folder / "talks.npz"
    if not arguments.talks:
        make_talks(arguments, model, tokenizer, talks)
    torch.cuda.empty_cache()
    model.set_attn_implementation("sdpa")
    rows = read_talks(talks)
    recipe = best_recipe(arguments, model, rows)
    seconds = arguments.until - (time.perf_counter() - STARTED) - CLOSING
    say("training", recipe=recipe, seconds=seconds)
    head, agreement = train(
        RECIPES[recipe], model, rows, seconds / 60, folder / recipe, arguments.draft_vocab_size
    )
    head.to(torch.bfloat16).save_pretrained(folder / "head")
    say("trained", recipe=recipe, agreement=agreement)


def main() -> None:
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
    making.add_argument("--try_seconds", type=float, default=20, help="Of training each recipe.")
    making.add_argument("--until", type=float, default=440, help="Seconds, from the start.")
    making.add_argument("--rows", type=int, default=1024)
    making.add_argument("--size", type=int, default=1024)
    making.add_argument("--recipes", nargs="+", default=["shipped", "scaled"])
    making.add_argument("--draft_vocab_size", type=int, default=8192)
    making.add_argument("--output_dir", required=True, type=Path)
    arguments = parser.parse_args()
    if arguments.command == "split":
        split(arguments.file, arguments.parts, arguments.output_dir)
    else:
        make(arguments)


if __name__ == "__main__":
    main()
