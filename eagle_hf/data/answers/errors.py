"""Why a server gave no answer, by what is to be done about it."""


class ServerError(ValueError):
    """A server did not give what it was asked for."""


class TryAgainError(ServerError):
    """The same request may succeed later, or at another server.

    Attributes:
        retry_after: how long the server wants to be left alone, in seconds; None where it does
            not say.
    """

    def __init__(self, reason: str, retry_after: float | None = None):
        super().__init__(reason)
        self.retry_after = retry_after


class RefusedPromptError(ServerError):
    """The server would refuse this prompt each time: it is too long, say."""


class WrongServerError(ServerError):
    """The server answers no prompt at all, or answers with another model."""


class KeyRefusedError(WrongServerError):
    """The server wants a key, or another one."""


class NoServerError(ServerError):
    """No server can be reached any more."""
