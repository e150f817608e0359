"""A driver of its own, for tests that kill it.

python cluster_driver.py EXECUTOR TARGET FOLDER PROMPTS
"""

import asyncio
import sys
from pathlib import Path

from cluster_models import OpenTiny, many_prompts

from eagle_hf.cluster.answering import RayAnswerer, ask_model
from eagle_hf.cluster.connection import connect
from eagle_hf.cluster.stages import Workers
from eagle_hf.data import TurnStore, collect_answers


def main() -> None:
    """Answer prompts on a cluster, as `test_ray_answers` does."""
    executor, target, folder, count = sys.argv[1:]
    ray = connect(executor)
    opening = OpenTiny(Path(target), Path(folder, "log"))
    parts = str(Path(folder, "parts"))
    model = ask_model(ray, opening, Workers(), parts)
    with TurnStore(Path(folder, "out")) as store:
        answerer = RayAnswerer(
            ray,
            opening,
            workers=Workers(),
            parts=parts,
            model=model,
            store=store,
            unit_prompts=16,
        )
        asyncio.run(collect_answers(answerer, many_prompts(int(count)), store))


if __name__ == "__main__":
    main()
