"""A hub in a thread: the part of the Hub's HTTP API that pushing and loading a model needs.

It knows branches, private repositories and tokens. Everything is in memory. A commit is a
dictionary of files by path. Large files live in a store of their own and are committed by their
sha256, as on the Hub. `LocalHub.fail` lets the next requests of a kind fail, for uploads that are
cut off.
"""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

LARGE = (".safetensors", ".png", ".bin")


class Refused(Exception):
    """An answer that is no success: status, X-Error-Code, text."""

    def __init__(self, status: int, code: str = "", text: str = ""):
        self.status = status
        self.code = code
        self.text = text or code


@dataclass
class Repository:
    owner: str
    private: bool
    branches: dict[str, str] = field(default_factory=dict)  # name -> commit
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> path -> content
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        """Put a new state of all files at the head of a branch."""
        self.messages.append(message)
        oid = hashlib.sha1(f"{len(self.messages)} {message}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def find(self, revision: str) -> str:
        """The commit that a branch or commit id means."""
        oid = self.branches.get(revision, revision)
        if oid not in self.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid


class LocalHub:
    """`with LocalHub() as hub:` serves at `hub.url`; `tokens` are who may log in, token -> user."""

    def __init__(self):
        self.tokens = {"hf_alice": "alice", "hf_bob": "bob"}
        self.repositories = {}  # "user/name" -> Repository
        self.store = {}  # sha256 -> content of a large file
        self.requests = []  # (method, path) of all that arrived
        self.failures = []  # (method, part of the path, status) of those that will fail
        self.lock = threading.RLock()
        # Handlers are made by the server, so their class has to know the hub.
        handler = type("Handler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        settings = {"poll_interval": 0.01}
        threading.Thread(target=self.server.serve_forever, kwargs=settings, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def fail(self, method: str, part: str, status: int) -> None:
        """Let the next request of this method whose path holds `part` fail with this status."""
        self.failures.append((method, part, status))

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """What a branch or commit holds, by path."""
        repository = self.repositories[repo_id]
        return repository.commits[repository.find(revision)]


class Handler(BaseHTTPRequestHandler):
    hub: LocalHub

    def log_message(self, *args):
        pass

    def answer(self):
        """Read the request, find its route, and answer; failures carry the Hub's error headers."""
        address = urlsplit(self.path)
        self.path = unquote(address.path)
        self.recursive = "recursive=true" in address.query.lower()
        self.body = self.read_body()
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path))
            try:
                self.inject_failure()
                self.user = self.log_in()
                for method, pattern, route in ROUTES:
                    found = re.fullmatch(pattern, self.path)
                    if found and self.command in method:
                        return route(self, **found.groupdict())
                raise Refused(404, "", f"no route {self.command} {self.path}")
            except Refused as error:
                headers = {"X-Error-Message": error.text}
                if error.code:
                    headers["X-Error-Code"] = error.code
                self.reply({"error": error.text}, error.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        size = int(self.rfile.readline(), 16)
        while size:
            body += self.rfile.read(size)
            self.rfile.readline()  # the end of the chunk's line
            size = int(self.rfile.readline(), 16)
        self.rfile.readline()
        return body

    def inject_failure(self) -> None:
        for failure in self.hub.failures:
            method, part, status = failure
            if method == self.command and part in self.path:
                self.hub.failures.remove(failure)
                raise Refused(status, "", "the storage is out of order")

    def log_in(self) -> str | None:
        """The user; None without a token. The answer repeats a wrong one, as some servers do."""
        if self.path.startswith("/store/"):
            return None  # an address that was handed out
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            raise Refused(401, "", f"Invalid credentials in Authorization header: {token}")
        return self.hub.tokens.get(token)

    def repository(self, repo_id: str, write: bool = False) -> Repository:
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and self.user != repository.owner):
            raise Refused(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if write and self.user != repository.owner:
            raise Refused(403 if self.user else 401, "", "you may not write here")
        return repository

    def reply(self, content, status: int = 200, headers: dict | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def whoami(self):
        if self.user is None:
            raise Refused(401, "", "log in first")
        self.reply({"name": self.user, "type": "user"})

    def create(self):
        asked = json.loads(self.body)
        repo_id = f"{asked.get('organization') or self.user}/{asked['name']}"
        if self.user is None or repo_id.split("/")[0] != self.user:
            raise Refused(403 if self.user else 401, "", "you may not create this repository")
        exists = repo_id in self.hub.repositories
        if not exists:
            # Releases of huggingface_hub say it in either way.
            private = asked.get("visibility") == "private" or bool(asked.get("private"))
            repository = Repository(self.user, private)
            files = {".gitattributes": b"*.safetensors filter=lfs\n"}
            repository.commit("main", files, "initial commit")
            self.hub.repositories[repo_id] = repository
        self.reply({"url": f"{self.hub.url}/{repo_id}"}, 409 if exists else 200)

    def validate_yaml(self):
        content = json.loads(self.body)["content"]
        try:
            metadata = yaml.safe_load(content.split("\n---\n")[0].removeprefix("---\n"))
            errors = [] if isinstance(metadata, dict) else [{"message": "no metadata"}]
        except yaml.YAMLError as error:
            errors = [{"message": str(error)}]
        self.reply({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, repo_id, revision="main"):
        repository = self.repository(repo_id)
        oid = repository.find(revision)
        siblings = [{"rfilename": path} for path in repository.commits[oid]]
        self.reply(
            {
                "id": repo_id,
                "sha": oid,
                "private": repository.private,
                "tags": [],
                "siblings": siblings,
            }
        )

    def branch(self, repo_id, branch):
        repository = self.repository(repo_id, write=True)
        if branch in repository.branches:
            raise Refused(409, "", "Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        self.reply({})

    def preupload(self, repo_id, revision):
        repository = self.repository(repo_id, write=True)
        stored = repository.commits[repository.find(revision)]
        answers = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            is_large = path.endswith(LARGE)
            mode = "lfs" if is_large else "regular"
            oid = None
            if path in stored:
                oid = sha256(stored[path]) if is_large else git_oid(stored[path])
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.reply({"files": answers})

    def large_files(self, repo_id):
        self.repository(repo_id, write=True)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            answer = dict(asked)
            if asked["oid"] not in self.hub.store:
                address = f"{self.hub.url}/store/{asked['oid']}"
                answer["actions"] = {"upload": {"href": address}}
            objects.append(answer)
        self.reply({"objects": objects, "transfer": "basic"})

    def put(self, oid):
        if sha256(self.body) != oid:
            raise Refused(400, "", "the content is not what was announced")
        self.hub.store[oid] = self.body
        self.reply({})

    def commit(self, repo_id, revision):
        repository = self.repository(repo_id, write=True)
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        files = dict(repository.commits[repository.find(revision)])
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.store[value["oid"]]
            else:
                del files[value["path"]]
        oid = repository.commit(revision, files, header["value"]["summary"])
        self.reply({"commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}", "commitOid": oid})

    def tree(self, repo_id, revision, folder):
        repository = self.repository(repo_id)
        above = f"{folder}/" if folder else ""
        entries = []
        for path, data in repository.commits[repository.find(revision)].items():
            is_direct = "/" not in path.removeprefix(above)
            if not path.startswith(above) or not (self.recursive or is_direct):
                continue
            entry = {"type": "file", "path": path, "size": len(data), "oid": git_oid(data)}
            if path.endswith(LARGE):
                entry["lfs"] = {"size": len(data), "oid": sha256(data), "pointerSize": 134}
            entries.append(entry)
        self.reply(entries)

    def resolve(self, repo_id, revision, path):
        repository = self.repository(repo_id)
        oid = repository.find(revision)
        if path not in repository.commits[oid]:
            raise Refused(404, "EntryNotFound", f"{path} does not exist")
        data = repository.commits[oid][path]
        headers = {"X-Repo-Commit": oid, "ETag": f'"{git_oid(data)}"'}
        if path.endswith(LARGE):
            headers |= {"X-Linked-Etag": f'"{sha256(data)}"', "X-Linked-Size": str(len(data))}
        self.reply(data, 200, headers)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


REPO = r"(?P<repo_id>[\w.-]+/[\w.-]+)"
ROUTES = [
    (("GET",), "/api/whoami-v2", Handler.whoami),
    (("POST",), "/api/repos/create", Handler.create),
    (("POST",), "/api/validate-yaml", Handler.validate_yaml),
    (("GET",), f"/api/models/{REPO}", Handler.info),
    (("GET",), f"/api/models/{REPO}/revision/(?P<revision>.+)", Handler.info),
    (("POST",), f"/api/models/{REPO}/branch/(?P<branch>.+)", Handler.branch),
    (("POST",), f"/api/models/{REPO}/preupload/(?P<revision>.+)", Handler.preupload),
    (("POST",), f"/api/models/{REPO}/commit/(?P<revision>.+)", Handler.commit),
    (("GET",), f"/api/models/{REPO}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?", Handler.tree),
    (("POST",), rf"/{REPO}\.git/info/lfs/objects/batch", Handler.large_files),
    (("PUT",), "/store/(?P<oid>[0-9a-f]{64})", Handler.put),
    (("GET", "HEAD"), f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]
