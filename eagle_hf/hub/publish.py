"""Push a head to the Hub in one commit: `head.push_to_hub("user/name")`, or a whole folder.

Where to and as whom is huggingface_hub's business (`hf auth login`, HF_TOKEN, HF_ENDPOINT). A token
is handed to it and goes nowhere else. Servers may repeat what they were sent, so their words are
searched for the token before they are shown.
"""

import hashlib
import re
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.hf_api import RepoFile

from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.head.sidecars import FIGURES, LASTING, WEIGHTS, copy_sidecars, sidecars

Operation = CommitOperationAdd | CommitOperationDelete

GENERATE = "custom_generate/generate.py"
OWN_GENERATE = Path(__file__).parent / GENERATE
# In a card, where the name of its repository goes. The second half stands for the name of files.
PLACEHOLDER = "THIS_USER/THIS_REPOSITORY"
# What to do about a response of the Hub, by its status.
REMEDIES = {
    401: "the token is missing, wrong or expired: log in with `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there: use one with write access to this name",
    404: "there is no such repository, or this token may not see it: check the name and the token",
}
OTHER_REMEDY = "mend that and push again; what was uploaded is not sent twice"


def push_to_hub(
    head: Eagle3DraftHead,
    repo_id: str,
    *,
    commit_message: str = "Upload draft head",
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Upload a head with all that `save_pretrained` carries along, and custom_generate.

    Args:
        head: The head.
        repo_id: As of `push_folder`, like all other arguments.

    Returns:
        The commit.

    Raises:
        ValueError: As of `push_folder`.
    """
    with TemporaryDirectory() as folder:
        head.save_pretrained(folder)
        return push_folder(
            folder,
            repo_id,
            commit_message=commit_message,
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
        )


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    commit_message: str = "Upload draft head",
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """Upload a head's folder, in one commit with everything or nothing at all.

    The same push again goes on where it was cut off, or changes nothing. Card, metrics and plots in
    the repository that belong to other weights, and are not replaced, are deleted with it.

    Args:
        folder: Folder of a saved head.
        repo_id: "user/name" of the repository, which is made where it is new.
        commit_message: Subject of the commit.
        private: Whether the repository is private; None to take it as it is.
        token: A token, True for the one of `hf auth login`, or False for none.
        revision: The branch, which is made where it is new; None for the default one.
        create_pr: Whether to open a pull request with the commit.

    Returns:
        The commit.

    Raises:
        ValueError: The push failed; the message says why, and what to do.
    """
    check_name(repo_id)
    files = files_to_push(folder)
    api = HfApi(token=token, library_name="eagle_hf")
    try:
        _prepare_repository(api, repo_id, private, revision)
        outdated = _find_outdated(api, repo_id, revision, files, Path(folder, WEIGHTS))
        return api.create_commit(
            repo_id,
            _list_operations(files, outdated, repo_id),
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )
    except Exception as error:  # of several libraries: those of the connection are no OSError
        reason, remedy = _explain_failure(error, token)
    # Raised outside of the handler, so that no cause repeats a token.
    raise ValueError(f"{repo_id} was not pushed and nothing of it is visible ({reason}); {remedy}")


def _prepare_repository(
    api: HfApi, repo_id: str, private: bool | None, revision: str | None
) -> None:
    """Make the repository and its branch, where they are new."""
    api.create_repo(repo_id, private=private, exist_ok=True)
    _check_visibility(api, repo_id, private)
    if revision and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)


def _list_operations(files: dict[str, Path], outdated: list[str], repo_id: str) -> list[Operation]:
    """What the commit adds and deletes."""
    operations: list[Operation] = []
    for name, path in files.items():
        operations.append(CommitOperationAdd(name, _content(name, path, repo_id)))
    for name in outdated:
        operations.append(CommitOperationDelete(name))
    return operations


def _explain_failure(error: Exception, token: str | bool | None) -> tuple[str, str]:
    """(what went wrong, what to do about it)."""
    cause: BaseException = error
    # An upload runs in a thread, whose own error hides behind a RuntimeError.
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        cause = error.__cause__
    response = getattr(cause, "response", None)
    status = getattr(response, "status_code", None)
    return _without_token(str(cause), token), REMEDIES.get(status, OTHER_REMEDY)


def add_custom_generate(folder: str | Path) -> None:
    """Put custom_generate/generate.py into a head's folder, for those who have no eagle_hf."""
    copy_sidecars({GENERATE: OWN_GENERATE}, folder)


def files_to_push(folder: str | Path) -> dict[str, Path]:
    """List what `push_folder` uploads: weights, config, what lies beside them, custom_generate.

    Nothing is sent. The card is listed as it lies there; a push writes its repository's name in.

    Args:
        folder: Folder of a saved head.

    Returns:
        The files, by their names in the repository.

    Raises:
        ValueError: It holds no head.
    """
    names = sidecars(Path(folder), ("config.json", WEIGHTS, *FIGURES, *LASTING))
    missing = {"config.json", WEIGHTS} - set(names)
    if missing:
        raise ValueError(
            f"{folder} holds no {' and no '.join(sorted(missing))}; give the folder of a saved head"
        )
    files = {name: Path(folder, name) for name in names}
    # Never the folder's own: it may be somebody else's code, and would go out under a new name.
    files[GENERATE] = OWN_GENERATE
    return files


def _content(name: str, path: Path, repo_id: str) -> bytes | Path:
    """What is uploaded of a file: the card names its repository, the rest is as it lies there."""
    if name != "README.md":
        return path
    # First the whole name: the second half is a part of it.
    card = path.read_text(encoding="utf-8").replace(PLACEHOLDER, repo_id)
    stem = PLACEHOLDER.split("/")[1]
    return card.replace(stem, repo_id.split("/")[1]).encode()


def check_name(repo_id: str) -> None:
    """Check the name of a repository.

    Args:
        repo_id: The name.

    Raises:
        ValueError: It is not "user/name". The message does not repeat it: an address may hold a
            token.
    """
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo_id, re.ASCII):
        raise ValueError(
            'the repository to push to is not of the form "user/name" (letters, digits, - _ .); '
            "give no address"
        )


def _check_visibility(api: HfApi, repo_id: str, private: bool | None) -> None:
    """Raise a ValueError where the repository is not as private as was asked for."""
    if private is not None and api.model_info(repo_id).private != private:
        raise ValueError(
            f"it is there already and private={not private}, which a push does not change; "
            "change it in its settings"
        )


def _find_outdated(
    api: HfApi, repo_id: str, revision: str | None, files: dict[str, Path], weights: Path
) -> list[str]:
    """Figures in the repository that would be left beside other weights than theirs."""
    stored = {}
    for entry in api.list_repo_tree(repo_id, revision=revision):
        if isinstance(entry, RepoFile):
            stored[entry.path] = entry
    # A new repository, or one without a head.
    if WEIGHTS not in stored:
        return []
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    large_file = stored[WEIGHTS].lfs
    # The Hub knows the sha256 of large files, so nothing is downloaded.
    if large_file is not None and large_file.sha256 == digest:
        return []
    return [name for name in stored if name not in files and _is_figure(name)]


def _is_figure(name: str) -> bool:
    """Whether a file tells of weights: a card, metrics or a plot."""
    return any(fnmatch(name, pattern) for pattern in FIGURES)


def _without_token(text: str, token: str | bool | None) -> str:
    """A server's words on one line, without the token they may repeat."""
    secret = token if isinstance(token, str) else get_token()
    if secret:
        text = text.replace(secret, "...")
    return " ".join(text.split())
