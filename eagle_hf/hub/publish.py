"""To the Hub in one commit: `head.push_to_hub("user/name")`, or a folder that already holds everything.

Where to and as whom is huggingface_hub's business (`hf auth login`, HF_TOKEN, HF_ENDPOINT). A token is handed to it and goes nowhere
else; because servers may repeat what they were sent, their words are searched for it before they are shown.
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

GENERATE = "custom_generate/generate.py"
OWN_GENERATE = Path(__file__).parent / GENERATE
PLACEHOLDER = "THIS_USER/THIS_REPOSITORY"  # in a card, where the name of its repository goes; the second half is also that of files
REMEDIES = {
    401: "the token is missing, wrong or expired: log in with `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there: use one with write access to this name",
    404: "there is no such repository, or this token may not see it: check the name and the token",
}


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
    """Upload the head with all that `save_pretrained` carries along, and custom_generate; see `push_folder`."""
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
    """Upload a head's folder to `repo_id` ("user/name"), made where it is new, and to the branch `revision` likewise.

    One commit with everything or nothing at all; the same push again goes on where it was cut off, or changes nothing. Card, metrics and
    plots in the repository that belong to other weights, and are not replaced, are deleted with it. A ValueError says what was wrong.
    """
    check_name(repo_id)
    files, api = published(folder), HfApi(token=token, library_name="eagle_hf")
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        check_visibility(api, repo_id, private)
        if revision and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        stale = outdated(api, repo_id, revision, files, Path(folder, WEIGHTS))
        operations = [
            CommitOperationAdd(name, content(name, path, repo_id)) for name, path in files.items()
        ]
        operations += [CommitOperationDelete(name) for name in stale]
        return api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message,
            revision=revision,
            create_pr=create_pr,
        )
    except Exception as error:  # of several libraries: those of the connection are no OSError
        error = (
            error.__cause__ or error if isinstance(error, RuntimeError) else error
        )  # an upload in a thread: why is one below
        status, reason = (
            getattr(getattr(error, "response", None), "status_code", None),
            without_token(str(error), token),
        )
        remedy = REMEDIES.get(
            status, "mend that and push again; what was uploaded is not sent twice"
        )
    raise ValueError(
        f"{repo_id} was not pushed and nothing of it is visible ({reason}); {remedy}"
    )  # outside: no cause that repeats a token


def add_custom_generate(folder: str | Path) -> None:
    """Put custom_generate/generate.py into a head's folder: people without eagle_hf try the head with it."""
    copy_sidecars({GENERATE: OWN_GENERATE}, folder)


def published(folder: str | Path) -> dict[str, Path]:
    """The files of a head's folder that are uploaded, by name: weights, config, sidecars, and this package's custom_generate."""
    names = sidecars(Path(folder), ("config.json", WEIGHTS, *FIGURES, *LASTING))
    missing = {"config.json", WEIGHTS} - set(names)
    if missing:
        raise ValueError(
            f"{folder} holds no {' and no '.join(sorted(missing))}; give the folder of a saved head"
        )
    # never the folder's own: it may be somebody else's code, and would go out under a new name
    return {name: Path(folder, name) for name in names} | {GENERATE: OWN_GENERATE}


def content(name: str, path: Path, repo_id: str) -> bytes | Path:
    """What is uploaded of a file: the card names its repository, the rest is as it lies there."""
    if name != "README.md":
        return path
    (_, stem), (_, own) = PLACEHOLDER.split("/"), repo_id.split("/")
    return (
        path.read_text(encoding="utf-8").replace(PLACEHOLDER, repo_id).replace(stem, own).encode()
    )


def check_name(repo_id: str) -> None:
    """Raise a ValueError unless it is "user/name"; what arrived is not repeated, because addresses may hold a token."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo_id, re.ASCII):
        raise ValueError(
            'the repository to push to is not of the form "user/name" (letters, digits, - _ .); give no address'
        )


def check_visibility(api: HfApi, repo_id: str, private: bool | None) -> None:
    """Raise a ValueError where the repository was there already, and is not as private as was asked for."""
    if private is not None and api.model_info(repo_id).private != private:
        raise ValueError(
            f"it is there already and private={not private}, which a push does not change; change it in its settings"
        )


def outdated(
    api: HfApi, repo_id: str, revision: str | None, files: dict[str, Path], weights: Path
) -> list[str]:
    """Figures in the repository that would be left beside other weights than theirs."""
    there = {
        file.path: file
        for file in api.list_repo_tree(repo_id, revision=revision)
        if isinstance(file, RepoFile)
    }
    if WEIGHTS not in there:
        return []
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if there[WEIGHTS].lfs is not None and there[WEIGHTS].lfs.sha256 == digest:
        return []
    return [
        name
        for name in there
        if name not in files and any(fnmatch(name, pattern) for pattern in FIGURES)
    ]


def without_token(text: str, token: str | bool | None) -> str:
    """A server's words on one line, without the token they may repeat."""
    secret = token if isinstance(token, str) else get_token()
    return " ".join((text.replace(secret, "...") if secret else text).split())
