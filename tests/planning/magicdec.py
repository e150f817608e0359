"""MagicDec's measurements (arXiv 2408.11049, version 5), and what the roofline predicts for each.

Published acceptances are means over a run: Omega, tokens a round, from which alpha follows. No
figure below is ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from eagle_hf.planning import roofline
from eagle_hf.planning.roofline import (
    MACHINES,
    SHAPES,
    Efficiency,
    Machine,
    ModelShape,
    Setting,
    Simulated,
)

LLAMA2 = SHAPES["Llama-2-7B-32K"]
LLAMA3 = SHAPES["Llama-3.1-8B"]
TINY = SHAPES["TinyLlama-1.1B"]
A100 = MACHINES["A100"]
H100 = MACHINES["H100"]
WINDOW = 512  # tokens that a drafter's cache keeps, in every cell

# Table 3 (appendix A.2), 8 A100, PG-19, StreamingLLM, chains of 2. Per drafter: length, batch,
# Omega, milliseconds of a plain step, speedup. TinyLlama drafts for Llama-2-7B-32K, on 4 of the
# GPUs (its 4 KV heads: the authors' README). The other two draft for themselves.
TABLE_3_TEXT = {
    "TinyLlama": """
        1024 32 2.19 8.27 0.95;   1024 48 2.19 9.41 1.01;   1024 64 2.19 10.83 1.00
        1024 128 2.19 14.02 0.94; 4000 32 2.19 11.89 1.13;  4000 48 2.19 14.39 1.20
        4000 64 2.19 19.28 1.30;  4000 128 2.19 28.77 1.32; 8000 32 2.18 16.53 1.27
        8000 48 2.18 21.45 1.38;  8000 64 2.18 31.49 1.51;  8000 128 2.18 49.89 1.60
        16000 32 2.17 26.28 1.50; 16000 48 2.18 35.83 1.59; 16000 64 2.17 55.08 1.72
        24000 32 2.16 35.70 1.62; 32000 32 2.17 44.94 1.69""",
    "Llama-2-7B-32K": """
        4000 32 2.56 11.89 1.02;  4000 48 2.56 14.39 1.06;  4000 64 2.57 19.28 1.15
        4000 128 2.56 28.77 1.21; 8000 32 2.53 16.53 1.18;  8000 48 2.53 21.45 1.23
        8000 64 2.53 31.49 1.43;  8000 128 2.52 49.89 1.55; 16000 32 2.50 26.28 1.46
        16000 48 2.50 35.83 1.48; 16000 64 2.51 55.08 1.71; 24000 32 2.49 35.70 1.64
        32000 32 2.50 44.94 1.75""",
    "Llama-3.1-8B": """
        4000 32 2.54 8.83 0.90;   4000 64 2.54 10.07 0.81;  4000 128 2.54 13.42 0.76
        4000 256 2.53 23.23 0.76; 8000 32 2.50 9.90 0.95;   8000 64 2.51 14.16 1.03
        8000 128 2.51 18.53 0.93; 8000 256 2.51 35.35 1.01; 16000 32 2.47 11.93 0.99
        16000 64 2.48 17.17 1.05; 16000 128 2.46 28.00 1.10; 32000 32 2.46 17.13 1.22
        32000 64 2.45 26.99 1.28; 32000 128 2.45 47.24 1.35; 64000 32 2.40 26.96 1.43
        64000 64 2.40 46.09 1.58; 100000 32 2.45 37.70 1.64""",
}

# "End-to-end speedups" with the best chain length, 8 A100, PG-19: the authors' page
# (infini-ai-lab.github.io/MagicDec) and Together's article. Length, batch, gamma, speedup. Neither
# window nor acceptance is printed: those of table 3 are taken.
BEST_CHAINS_TEXT = {
    "TinyLlama": "8000 32 3 1.29; 8000 64 3 1.57; 8000 128 4 1.66; 32000 32 4 1.91",
    "Llama-2-7B-32K": "8000 32 3 1.18; 8000 64 3 1.48; 8000 128 4 1.63; 32000 32 4 2.00",
    "Llama-3.1-8B": "32000 32 3 1.22; 32000 64 3 1.38; 32000 128 4 1.47; 100000 32 5 1.84",
}

# Tables 6 (8 H100, window 512) and 1 (4 H100), self-speculation: target, GPUs, length, batch,
# gamma, Omega, speedup. The smallest batch comes first, the largest fourth.
ON_H100_ROWS = [
    (LLAMA3, 8, 32000, 16, 3, 3.09, 1.08),
    (LLAMA3, 8, 32000, 32, 3, 3.06, 1.26),
    (LLAMA3, 8, 32000, 64, 3, 3.08, 1.55),
    (LLAMA3, 8, 32000, 128, 4, 3.57, 1.85),
    (LLAMA3, 4, 32000, 32, 3, 2.82, 1.42),
    (LLAMA2, 4, 8000, 32, 3, 2.98, 1.44),
    (LLAMA2, 4, 8000, 64, 4, 3.37, 1.68),
]


@dataclass(frozen=True)
class Cell:
    """One published measurement.

    Attributes:
        drafter: A key of `TABLE_3_TEXT`.
        length: Cached tokens of a row.
        batch: Rows.
        gamma: Drafts of a chain.
        omega: Tokens a round of chains with `omega_gamma` drafts.
        omega_gamma: See `omega`.
        speedup: Over plain decoding.
        milliseconds: Of a plain step, where it is published.
        machine: The GPU.
        gpus: How many of them.
    """

    drafter: str
    length: int
    batch: int
    gamma: int
    omega: float
    omega_gamma: int
    speedup: float = 1.0
    milliseconds: float | None = None
    machine: Machine = A100
    gpus: int = 8

    @property
    def key(self) -> tuple[str, int, int]:
        """(drafter, length, batch): what tells the cells of table 3 apart."""
        return self.drafter, self.length, self.batch

    @property
    def target(self) -> ModelShape:
        return LLAMA3 if self.drafter == "Llama-3.1-8B" else LLAMA2

    def predict(self, efficiency: Efficiency) -> Simulated:
        """The roofline's speedup."""
        alpha = acceptance(self.omega, self.omega_gamma)
        setting = Setting(self.target, self.machine, self.batch, self.length, self.gpus)
        if self.drafter == "TinyLlama":
            return roofline.draft_model(
                setting, efficiency, TINY, self.gamma, alpha, WINDOW, draft_gpus=4
            )
        return roofline.self_speculation(setting, efficiency, self.gamma, alpha, WINDOW)


@cache  # a fit predicts the same cells hundreds of times
def acceptance(omega: float, gamma: int) -> float:
    """The alpha whose chains of gamma drafts make omega tokens a round, by bisection."""
    low = 0.0
    high = 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if roofline.chain_tokens(middle, gamma) < omega:
            low = middle
        else:
            high = middle
    return low


def parse(text: str) -> list[list[float]]:
    """The rows of a table, which semicolons or line ends separate."""
    rows = []
    for row in text.replace("\n", ";").split(";"):
        if row.strip():
            rows.append([float(number) for number in row.split()])
    return rows


def table_3() -> list[Cell]:
    """The 47 cells of table 3."""
    cells = []
    for drafter, text in TABLE_3_TEXT.items():
        for length, batch, omega, milliseconds, speedup in parse(text):
            cells.append(
                Cell(
                    drafter,
                    int(length),
                    int(batch),
                    gamma=2,
                    omega=omega,
                    omega_gamma=2,
                    speedup=speedup,
                    milliseconds=milliseconds,
                )
            )
    return cells


def best_chains() -> list[Cell]:
    """The 12 cells with the best chain length."""
    omegas = {cell.key: cell.omega for cell in table_3()}
    cells = []
    for drafter, text in BEST_CHAINS_TEXT.items():
        for length, batch, gamma, speedup in parse(text):
            cells.append(
                Cell(
                    drafter,
                    int(length),
                    int(batch),
                    gamma=int(gamma),
                    omega=omegas[drafter, int(length), int(batch)],
                    omega_gamma=2,
                    speedup=speedup,
                )
            )
    return cells


def on_h100() -> list[Cell]:
    """The 7 cells on another machine."""
    cells = []
    for target, gpus, length, batch, gamma, omega, speedup in ON_H100_ROWS:
        cells.append(
            Cell(
                target.name,
                length,
                batch,
                gamma=gamma,
                omega=omega,
                omega_gamma=gamma,
                speedup=speedup,
                machine=H100,
                gpus=gpus,
            )
        )
    return cells


def fit(cells: Iterable[Cell], memory: float = 0.9) -> Efficiency:
    """The efficiency that explains these cells."""
    return roofline.fit_efficiency([(cell.predict, cell.speedup) for cell in cells], memory)


def misses(cells: Iterable[Cell], efficiency: Efficiency) -> list[float]:
    """By how much each prediction is off, as a share of the published speedup."""
    return [cell.predict(efficiency).value / cell.speedup - 1 for cell in cells]


def worst(shares: Iterable[float]) -> float:
    """The largest of them, whatever its sign."""
    return max(abs(share) for share in shares)
