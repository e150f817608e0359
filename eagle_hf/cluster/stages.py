"""A stage of the data room on the workers of a Ray cluster, unit by unit.

    units --> | unit | unit | ... |  --Ray Data, a pool of actors-->  results, in any order

A unit is what a worker is given at once, and what is done again where its node dies. A worker opens
its stage once, with its target or its client, and keeps it for all units.

Ray Data runs inside an actor on the head node, because `ray://` connections cannot run it. So this
process may be anywhere.

Errors of a stage that a caller can correct (`ValueError`) come back as they are. Ray would wrap
them, or try again for ever.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from eagle_hf.cluster.connection import HEAD_RESOURCE

# A stage takes a unit and returns its result. Both are pickled.
Stage = Callable[[Any], Any]
OpenStage = Callable[[], Stage]


@dataclass(frozen=True)
class Workers:
    """How many workers there are, and what each takes of its node.

    Attributes:
        most: at once; None: as many as the cluster holds.
        cpus: of each.
        gpus: of each.
    """

    most: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        is_out_of_range = (
            self.cpus < 0 or self.gpus < 0 or (self.most is not None and self.most < 1)
        )
        if is_out_of_range:
            raise ValueError(
                f"{self} arrived; at least one worker is needed, and cpus and gpus of 0 or more"
            )


def ask_one_worker(ray: Any, open_stage: OpenStage, workers: Workers, unit: Any) -> Any:
    """Let one worker open the stage and do a single unit, before the others start.

    Args:
        ray: the module, connected.
        open_stage: makes the stage, on the worker.
        workers: what it takes of its node.
        unit: for the stage.

    Returns:
        The result.

    Raises:
        ValueError: the stage refused, or no node has room for a worker.
    """
    check_room(ray, workers)
    remote = ray.remote(num_cpus=workers.cpus, num_gpus=workers.gpus)(_open_and_do)
    return _unpacked(ray.get(remote.remote(open_stage, pickle.dumps(unit))))


class StageRun:
    """The units of one stage, while workers do them.

    Args:
        ray: the module, connected.
        open_stage: makes the stage; called once on every worker.
        workers: how many, and what each takes.
        units: for the stage. They are sent one by one, and held in the cluster's object store.

    Raises:
        ValueError: no node of the cluster has room for a single worker.
    """

    def __init__(self, ray: Any, open_stage: OpenStage, workers: Workers, units: Iterable[Any]):
        self._ray = ray
        head = {HEAD_RESOURCE: 0.001}
        runner = ray.remote(num_cpus=0, resources=head)(_Runner)
        self._runner = runner.remote(open_stage, workers, check_room(ray, workers))
        self.left = 0
        for unit in units:
            ray.get(self._runner.add.remote(pickle.dumps(unit)))
            self.left += 1

    def next_result(self) -> Any:
        """Wait for the next result.

        Returns:
            The result of any unit; None once there is one of each.

        Raises:
            ValueError: the stage refused a unit, or the cluster gave up.
        """
        if not self.left:
            return None
        try:
            result = self._ray.get(self._runner.next_result.remote())
        except self._ray.exceptions.RayError as error:
            raise ValueError(
                f"the cluster gave up with {self.left} units left ({error}); what is finished is "
                "kept: run again"
            ) from error
        self.left -= 1
        return _unpacked(result)

    def results(self) -> Iterator[Any]:
        """Every result as soon as it is there, in any order; the run ends with them."""
        try:
            while self.left:
                yield self.next_result()
        finally:
            self.close()

    def close(self) -> None:
        """End the workers, whatever they are at."""
        self._ray.kill(self._runner)


class _Runner:
    """The actor that Ray Data runs in.

    Args:
        open_stage, workers: as in `StageRun`.
        room: workers that the cluster holds now.
    """

    def __init__(self, open_stage: OpenStage, workers: Workers, room: int):
        self._open_stage = open_stage
        self._workers = workers
        self._room = room
        self._units: list[dict[str, bytes]] = []
        self._results: Iterator[dict[str, bytes]] | None = None

    def add(self, unit: bytes) -> None:
        """Add a unit; all of them before the first result."""
        self._units.append({"unit": unit})

    def next_result(self) -> bytes:
        """Wait for the next result."""
        if self._results is None:
            self._results = self._start()
        return next(self._results)["result"]

    def _start(self) -> Iterator[dict[str, bytes]]:
        """Begin with the units."""
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # A block is what Ray does again. So each unit is a block of its own.
        units = ray.data.from_items(self._units, override_num_blocks=len(self._units))
        most = self._workers.most
        # All at once: one after the other, as Ray Data scales up, large targets take hours to open.
        at_first = min(self._room, most or self._room, len(self._units))
        self._units = []
        results = units.map_batches(
            _Worker,
            fn_constructor_args=(self._open_stage,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most, initial_size=at_first),
            num_cpus=self._workers.cpus,
            num_gpus=self._workers.gpus or None,
        )
        return iter(results.iter_rows())


class _Worker:
    """One worker. Its stage is opened with its first unit, so that a refusal is a result."""

    def __init__(self, open_stage: OpenStage):
        self._open_stage = open_stage
        self._stage: Stage | None = None

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[bytes]]:
        """Do the units of a batch, which Ray Data gives as columns."""
        return {"result": [self.do(unit) for unit in batch["unit"]]}

    def do(self, unit: bytes) -> bytes:
        """One unit; its result, or the error that refused it."""
        try:
            if self._stage is None:
                self._stage = self._open_stage()
            return pickle.dumps(self._stage(pickle.loads(unit)))
        except ValueError as error:
            # Of a subclass only the text is kept: its own arguments may be unknown here.
            return pickle.dumps(ValueError(str(error)))


def _open_and_do(open_stage: OpenStage, unit: bytes) -> bytes:
    """A worker of a single unit."""
    return _Worker(open_stage).do(unit)


def _unpacked(result: bytes) -> Any:
    """A result; the error of a stage is raised here."""
    found = pickle.loads(result)
    if isinstance(found, ValueError):
        raise found
    return found


def check_room(ray: Any, workers: Workers) -> int:
    """Refuse workers that fit on no node; Ray would wait for one.

    Args:
        ray: the module, connected.
        workers: what each takes.

    Returns:
        How many fit on all nodes together.

    Raises:
        ValueError: no node has room for one.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(_room_on(resources, workers) for resources in nodes)
    if room:
        return room
    raise ValueError(
        f"a worker takes {workers.cpus:g} CPUs and {workers.gpus:g} GPUs, and none of the "
        f"cluster's {len(nodes)} nodes has them; ask for less or add a node"
    )


def _room_on(resources: Mapping[str, float], workers: Workers) -> int:
    """How many workers fit on a node."""
    rooms = []
    for name, taken in (("CPU", workers.cpus), ("GPU", workers.gpus)):
        if taken:
            rooms.append(int(resources.get(name, 0) // taken))
    return min(rooms, default=1)
