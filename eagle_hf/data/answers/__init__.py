"""The target's answers, from servers or in this process, in a folder that survives kill -9.

    prompts --write_responses, write_served_responses--> turns.sqlite -> conversations.jsonl
                   |
               Answerer: servers, the target in this process, or anything else that answers

Token ids are the data. A turn keeps the ids of its prompt and of its answer, and says where they
come from: from whoever answered, or from tokenizing the text.
"""

from eagle_hf.data.answers.answerer import ServedAnswerer
from eagle_hf.data.answers.collecting import collect_answers
from eagle_hf.data.answers.conversation_file import CONVERSATIONS, stored_conversations
from eagle_hf.data.answers.in_process import TargetAnswerer
from eagle_hf.data.answers.recovery import IdRecovery
from eagle_hf.data.answers.report import AnswerReport
from eagle_hf.data.answers.responses import write_responses
from eagle_hf.data.answers.served_responses import write_served_responses
from eagle_hf.data.answers.settings import ServingSettings
from eagle_hf.data.answers.store import TURNS, TurnStore
from eagle_hf.data.answers.turns import (
    Answerer,
    FailedTurn,
    FinishedTurn,
    OpenConversation,
    TurnRequest,
)
from eagle_hf.data.examples.turns import MISSING, RECOVERED, SERVED

__all__ = [
    "CONVERSATIONS",
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
    "stored_conversations",
    "write_responses",
    "write_served_responses",
]
