"""Answers turn by turn, from servers or in this process, in a store that survives kill -9.

    prompts --collect_answers--> turns.sqlite --served_examples--> examples
                   |
               Answerer: servers, the target in this process, or anything else that answers

Token ids are the data. A turn keeps the ids of its prompt and of its answer, and says where they
come from: from the server, or from tokenizing the text.
"""

from eagle_hf.data.answers.answerer import ServedAnswerer
from eagle_hf.data.answers.collecting import (
    AnswerReport,
    collect_answers,
    write_served_responses,
)
from eagle_hf.data.answers.examples import served_conversations, served_examples
from eagle_hf.data.answers.in_process import TargetAnswerer
from eagle_hf.data.answers.recovery import IdRecovery
from eagle_hf.data.answers.settings import ServingSettings
from eagle_hf.data.answers.store import TURNS, TurnStore
from eagle_hf.data.answers.turns import (
    MISSING,
    RECOVERED,
    SERVED,
    Answerer,
    FailedTurn,
    FinishedTurn,
    OpenConversation,
    TurnRequest,
)

__all__ = [
    "MISSING",
    "RECOVERED",
    "SERVED",
    "TURNS",
    "AnswerReport",
    "Answerer",
    "FailedTurn",
    "FinishedTurn",
    "IdRecovery",
    "OpenConversation",
    "ServedAnswerer",
    "ServingSettings",
    "TargetAnswerer",
    "TurnRequest",
    "TurnStore",
    "collect_answers",
    "served_conversations",
    "served_examples",
    "write_served_responses",
]
