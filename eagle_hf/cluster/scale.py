"""How many servers, hours and bytes a plan takes, from what a sample of it took.

A sample is answered by one server and read once by one copy of the target. Everything else is
multiplication:

    factor           = wanted prompts / prompts of the sample
    tokens           = factor * tokens of the sample
    server hours     = factor * seconds * servers of the sample / 3600 / efficiency
    hours            = server hours / wanted servers
    bytes of rows    = factor * bytes of the sample's rows
    bytes of states  = read tokens * bytes of a token's states

`efficiency` is the share of the time in which a server is kept busy: it loads, restarts, and waits
for the longest answers at the end.

`simulated_sample` makes a sample of a machine that is not here, from the roofline. Such a plan is
simulated and says so.
"""

import math
from dataclasses import dataclass

from eagle_hf.pipeline import MeasuredSample
from eagle_hf.planning.roofline import Efficiency, Machine, ModelShape, forward_seconds

SECONDS_AN_HOUR = 3600
STATE_BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}  # of one number of a stored state
# Ids, best and log-normaliser have 4 bytes each, the loss mask one.
TOKEN_BYTES = 13
SCALE_BYTES = 4  # of each state of a token, with int8 only
NUM_STATES = 4  # the three aux hidden states and the final one
# Ids as JSON: digits and a comma. A text beside them has about 4 characters a token.
ROW_BYTES_A_TOKEN = 12


@dataclass(frozen=True)
class WantedScale:
    """What is planned.

    Attributes:
        prompts: to be answered.
        servers: that answer at once. Default: as many as `hours` needs.
        hours: in which all must be answered. Default: as long as `servers` take.
        efficiency: share of the time in which a server answers, in (0, 1].
    """

    prompts: int
    servers: int | None = None
    hours: float | None = None
    efficiency: float = 0.9

    def __post_init__(self) -> None:
        if (self.servers is None) == (self.hours is None):
            raise ValueError(
                f"servers is {self.servers} and hours {self.hours}; give one of the two"
            )
        if self.prompts < 1:
            raise ValueError(f"prompts is {self.prompts}; it must be at least 1")
        if self.servers is not None and self.servers < 1:
            raise ValueError(f"servers is {self.servers}; it must be at least 1")
        if self.hours is not None and not self.hours > 0:
            raise ValueError(f"hours is {self.hours}; it must be above 0")
        if not 0 < self.efficiency <= 1:
            raise ValueError(f"efficiency is {self.efficiency}; a share above 0, up to 1, is meant")


@dataclass(frozen=True)
class ScalePlan:
    """What the plan takes.

    Attributes:
        prompts: to be answered.
        servers: that answer, and afterwards copies of the target that read.
        prompt_tokens: that the servers read.
        response_tokens: that they sample.
        read_tokens: that training or capture read once, all answers with their prompts.
        answer_hours: until everything is answered, by the clock.
        read_hours: until everything is read once; 0 where the sample does not say.
        server_hours: of all servers together, for both.
        conversation_bytes: of the conversations on disk.
        feature_bytes: of the stored states; 0 where none are kept.
        basis: where the figures come from.
    """

    prompts: int
    servers: int
    prompt_tokens: int
    response_tokens: int
    read_tokens: int
    answer_hours: float
    read_hours: float
    server_hours: float
    conversation_bytes: int
    feature_bytes: int
    basis: str

    def __str__(self) -> str:
        """A few lines for a terminal."""
        plural = "s" if self.servers > 1 else ""
        lines = [
            f"{self.prompts:,} prompts, from {self.basis}:",
            f"  tokens    {self.prompt_tokens:,} of prompts, {self.response_tokens:,} of answers",
            f"  answers   {self.answer_hours:,.1f} h on {self.servers:,} server{plural}",
        ]
        if self.read_hours:
            lines.append(f"  reading   {self.read_hours:,.1f} h on as many copies of the target")
        lines.append(f"  machines  {self.server_hours:,.1f} server hours")
        lines.append(f"  disk      {in_units(self.conversation_bytes)} of conversations")
        if self.feature_bytes:
            lines.append(f"            {in_units(self.feature_bytes)} of features")
        return "\n".join(lines)


def plan_scale(
    sample: MeasuredSample, wanted: WantedScale, basis: str = "a measured sample"
) -> ScalePlan:
    """Say what a plan takes, from what a sample of it took.

    Args:
        sample: of prompts of the same kind, with the settings of the plan.
        wanted: how many prompts, and on how many servers or in how many hours.
        basis: where the sample comes from, as words behind "from".

    Returns:
        Servers, hours, tokens and bytes.

    Raises:
        ValueError: a sample in which nothing was answered.
    """
    _check_sample(sample)
    factor = wanted.prompts / sample.prompts
    answering = factor * sample.answer_seconds * sample.servers
    busy_hours = answering / SECONDS_AN_HOUR / wanted.efficiency
    servers = wanted.servers
    if servers is None:
        assert wanted.hours is not None, "one of the two is given"
        servers = math.ceil(busy_hours / wanted.hours)
    prompt_tokens = round(factor * sample.prompt_tokens)
    response_tokens = round(factor * sample.response_tokens)
    read_tokens = prompt_tokens + response_tokens
    # The sample that was read may be a part of the one that was answered.
    reading = sample.read_seconds / sample.read_tokens * read_tokens if sample.read_tokens else 0.0
    read_hours = reading / SECONDS_AN_HOUR / wanted.efficiency
    return ScalePlan(
        prompts=wanted.prompts,
        servers=servers,
        prompt_tokens=prompt_tokens,
        response_tokens=response_tokens,
        read_tokens=read_tokens,
        answer_hours=busy_hours / servers,
        read_hours=read_hours / servers,
        server_hours=busy_hours + read_hours,
        conversation_bytes=round(factor * sample.conversation_bytes),
        feature_bytes=round(read_tokens * sample.feature_bytes_per_token),
        basis=basis,
    )


def feature_bytes_a_token(hidden_size: int, dtype: str = "bfloat16") -> int:
    """Bytes that `capture_features` stores for a token, without the headers of the shards.

    Args:
        hidden_size: of the target.
        dtype: of the stored states: "float32", "bfloat16" or "int8".

    Returns:
        Bytes: 8 H + 13 in bfloat16.

    Raises:
        ValueError: another dtype.
    """
    if dtype not in STATE_BYTES:
        raise ValueError(f"the storage dtype is {dtype!r}; choose one of {', '.join(STATE_BYTES)}")
    scales = NUM_STATES * SCALE_BYTES if dtype == "int8" else 0
    return NUM_STATES * hidden_size * STATE_BYTES[dtype] + scales + TOKEN_BYTES


def simulated_sample(
    target: ModelShape,
    machine: Machine,
    efficiency: Efficiency,
    *,
    gpus: int,
    batch: int,
    prompt_tokens: int,
    response_tokens: int,
) -> MeasuredSample:
    """Simulate one server that answers a batch of prompts, on a machine that is not here.

    Prompts are read alone. Answers grow together, so the caches are on average half grown: an
    engine that fills every gap with the next prompt keeps such a batch.

    Args:
        target: the shape of the target.
        machine: the kind of GPU.
        efficiency: what software gets out of it.
        gpus: of one server, tensor-parallel.
        batch: prompts that are answered at once.
        prompt_tokens: of each prompt.
        response_tokens: of each answer.

    Returns:
        The sample, with states kept in bfloat16. Nothing of it is measured: say so as the plan's
        `basis`.

    Raises:
        ValueError: weights and caches do not fit into the memory.
    """
    length = prompt_tokens + response_tokens
    # All caches at their longest must fit.
    forward_seconds(target, machine, efficiency, batch, length, tokens=1, gpus=gpus)
    reading = forward_seconds(
        target, machine, efficiency, batch=1, length=prompt_tokens, tokens=prompt_tokens, gpus=gpus
    )
    half_grown = prompt_tokens + response_tokens // 2
    step = forward_seconds(target, machine, efficiency, batch, half_grown, tokens=1, gpus=gpus)
    reading_all = forward_seconds(
        target, machine, efficiency, batch=1, length=length, tokens=length, gpus=gpus
    )
    return MeasuredSample(
        prompts=batch,
        prompt_tokens=batch * prompt_tokens,
        response_tokens=batch * response_tokens,
        answer_seconds=batch * reading + response_tokens * step,
        servers=1,
        conversation_bytes=batch * length * ROW_BYTES_A_TOKEN,
        read_tokens=batch * length,
        read_seconds=batch * reading_all,
        feature_bytes_per_token=feature_bytes_a_token(target.hidden),
    )


def _check_sample(sample: MeasuredSample) -> None:
    """Refuse a sample from which nothing can be told."""
    for name in ("prompts", "response_tokens", "servers"):
        if getattr(sample, name) < 1:
            raise ValueError(
                f"the sample has {name} {getattr(sample, name)}; answer at least one prompt first"
            )
    if sample.answer_seconds <= 0:
        raise ValueError(f"the sample took {sample.answer_seconds} s; measure it again")


def in_units(size: int) -> str:
    """A number of bytes for a screen.

    Args:
        size: in bytes.

    Returns:
        It in the largest decimal unit of which it holds one: "262.2 TB".
    """
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"
