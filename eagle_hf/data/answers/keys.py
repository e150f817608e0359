"""API keys of servers: from environment variables, to the servers that they belong to.

A key stands in no command line, file or message. It is sent to no server that it was not named for.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

USUAL = "OPENAI_API_KEY"  # where OpenAI's own client looks
MASK = "[the key]"


def read_key(variable: str) -> str:
    """Read a key.

    Args:
        variable: the environment variable that holds it.

    Raises:
        ValueError: it is not set, or cannot be sent.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"the environment variable {variable} is not set; set it to the key")
    if not key.isascii() or not key.isprintable():
        raise ValueError(
            f"the environment variable {variable} holds characters that no HTTP header takes; "
            "set it to the key alone"
        )
    return key


@dataclass(frozen=True)
class ServerKeys:
    """The key of each server.

    Attributes:
        shared: of servers that have none of their own; None: no key.
        own: by the label of the server.
    """

    shared: str | None = field(default=None, repr=False)
    own: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, texts: Sequence[str], labels: Sequence[str]) -> "ServerKeys":
        """Read the keys that a command line names.

        Args:
            texts: each VARIABLE, for all servers, or LABEL=VARIABLE.
            labels: of the servers.

        Raises:
            ValueError: a variable is not set, a label is of no server, or two are for the same.
        """
        shared = None
        own: dict[str, str] = {}
        for text in texts:
            label, has_label, variable = text.rpartition("=")
            if has_label and label not in labels:
                raise ValueError(
                    f"the key is {text!r}, and no server is called {label!r}; take of "
                    f"{', '.join(labels) or 'none'}"
                )
            if label in own or (not has_label and shared is not None):
                raise ValueError(f"{', '.join(texts)} name two keys for the same; name one")
            key = read_key(variable)
            if has_label:
                own[label] = key
            else:
                shared = key
        return cls(shared, own)

    def of(self, label: str) -> str | None:
        """The key of a server; None where it gets none."""
        return self.own.get(label, self.shared)
