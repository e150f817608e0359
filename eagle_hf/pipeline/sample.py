"""A few prompts answered with the stopwatch: what a whole run is planned from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MeasuredSample:
    """What answering and reading a few prompts took, on the user's own machines.

    Attributes:
        prompts: that were answered.
        prompt_tokens: of all of them together.
        response_tokens: of all answers together.
        answer_seconds: of wall-clock time until all were answered.
        servers: that answered at once; 1 in process.
        conversation_bytes: on disk, of all of them together.
        read_tokens: that the target read for features; 0 where that was not measured.
        read_seconds: that it took.
        feature_bytes_per_token: of the states that are kept for training, by formula.
    """

    prompts: int
    prompt_tokens: int
    response_tokens: int
    answer_seconds: float
    servers: int
    conversation_bytes: int
    read_tokens: int
    read_seconds: float
    feature_bytes_per_token: float
