"""What was computed for machines that are not at hand, parsed: roofline.json."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SimulatedGain:
    """A simulated speed over plain decoding; None where the model does not fit the machine."""

    machine: str
    batch: int
    length: int
    way: str
    gain: float | None


@dataclass(frozen=True)
class SimulatedForward:
    """A token of every row by plain decoding.

    Attributes:
        machine, batch, length: where.
        seconds: by part: reading_weights, multiplying_weights, reading_cache, multiplying_cache and
            layers. Of reading and multiplying the same, the larger one counts.
        best_chain: drafts a round with which self-speculation is the fastest there.
    """

    machine: str
    batch: int
    length: int
    seconds: dict[str, float]
    best_chain: int


@dataclass(frozen=True)
class Simulation:
    """roofline.json.

    Attributes:
        gains: of every cell and way of drafting.
        forwards: of every cell that fits its machine; none in files of earlier versions.
        operations_per_byte: by machine, at which its memory and its arithmetic take equally long.
    """

    gains: tuple[SimulatedGain, ...]
    forwards: tuple[SimulatedForward, ...]
    operations_per_byte: dict[str, float]

    @property
    def machines(self) -> list[str]:
        """Their names."""
        return list(dict.fromkeys(gain.machine for gain in self.gains))


def parse_simulation(content: dict[str, Any]) -> Simulation:
    """What `eagle-hf roofline` wrote."""
    gains = []
    forwards = []
    for cell in content["cells"]:
        place = (cell["machine"], cell["batch"], cell["length"])
        for way, gain in cell["gains"].items():
            gains.append(SimulatedGain(*place, way, gain))
        if cell.get("forward") is not None:
            forwards.append(SimulatedForward(*place, cell["forward"], cell["best_chain"]))
    balances = content["operations_per_byte"] if forwards else {}
    return Simulation(tuple(gains), tuple(forwards), balances)
