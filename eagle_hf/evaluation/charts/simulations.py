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


def parse_simulation(content: dict[str, Any]) -> list[SimulatedGain]:
    """The cells of `eagle-hf roofline`."""
    gains = []
    for cell in content["cells"]:
        for way, gain in cell["gains"].items():
            gains.append(SimulatedGain(cell["machine"], cell["batch"], cell["length"], way, gain))
    return gains
