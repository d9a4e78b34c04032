"""A local server that speaks as much of Hugging Face's protocol as fetching needs.

`/USER/NAME/resolve/REVISION/FILE`, as the hub answers it: small files at once, with
git's hash as ETag; others by a redirection to a store, with their SHA-256.
"""

import contextlib
import hashlib
import http.server
import re
import threading
import urllib.parse

STORED = (".h5", ".npz", ".pkl")


# What follows USER/NAME/resolve/REVISION/, and store/COMMIT/USER/NAME/.
_FILE = "/resolve/[^/]+/(.+)|/store/[^/]+/[^/]+/[^/]+/(.+)"


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Hub:
    """Repositories, what is asked of them, and what goes wrong.

    Attributes:
        url: Where it listens.
        store: The same by another name: where stored files lie.
        commits: Files by (repository, commit).
        branches: Commits by (repository, branch).
        requests: (method, path, Authorization) of every request.
        sent: What is sent instead of a file's content, by its name.
        sizes: What is said of a file's size, by its name.
        endless: Files that never end, and whose length is not stated.
        status: What every request is answered by, where set.
    """

    def __init__(self) -> None:
        self.url = self.store = ""
        self.commits: dict = {}
        self.branches: dict = {}
        self.requests: list = []
        self.sent: dict = {}
        self.sizes: dict = {}
        self.endless: set = set()
        self.status: int | None = None
        self.named_commit: str | None = None

    def commit(self, repository: str, files: dict, branch: str = "main") -> str:
        """Adds a commit of files and moves a branch to it; returns its hash."""
        known = f"{repository}{sorted(files.items())}{len(self.commits)}"
        name = hashlib.sha1(known.encode()).hexdigest()
        self.commits[repository, name] = dict(files)
        self.branches[repository, branch] = name
        return name

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [
            found[1] or found[2]
            for method, path, _ in self.requests
            if method == "GET" and (found := re.search(_FILE, path))
        ]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def log_message(self, *arguments):
        pass

    def answer(self):
        login = self.headers.get("Authorization")
        self.hub.requests.append((self.command, self.path, login))
        if self.hub.status:
            return self.head(self.hub.status, {})
        stored = re.fullmatch("/store/([0-9a-f]{40})/([^/]+/[^/]+)/(.+)", self.path)
        if stored:
            commit, repository, file = stored.groups()
            return self.content(file, self.hub.commits[repository, commit][file], {})
        parts = re.fullmatch("/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if not parts:
            return self.head(404, {})
        repository, revision, file = map(urllib.parse.unquote, parts.groups())
        if repository not in {name for name, _ in self.hub.commits}:
            return self.head(404, {"X-Error-Code": "RepoNotFound"})
        commit = self.hub.branches.get((repository, revision), revision)
        if (repository, commit) not in self.hub.commits:
            return self.head(404, {"X-Error-Code": "RevisionNotFound"})
        files = self.hub.commits[repository, commit]
        named = {"X-Repo-Commit": self.hub.named_commit or commit}
        if file not in files:
            return self.head(404, {"X-Error-Code": "EntryNotFound", **named})
        if not file.endswith(STORED):
            named["ETag"] = f'"{git_hash(files[file])}"'
            return self.content(file, files[file], named)
        named["X-Linked-ETag"] = f'"{hashlib.sha256(files[file]).hexdigest()}"'
        named["X-Linked-Size"] = str(self.hub.sizes.get(file, len(files[file])))
        named["Location"] = f"{self.hub.store}/store/{commit}/{repository}/{file}"
        self.head(302, named)

    def content(self, file, content, headers):
        content = self.hub.sent.get(file, content)
        if file in self.hub.endless and self.command == "GET":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x" * 65536)
        headers["Content-Length"] = str(self.hub.sizes.get(file, len(content)))
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if begin:
            headers["Content-Range"] = f"bytes {begin[1]}-/{len(content)}"
            content = content[int(begin[1]) :]
            headers["Content-Length"] = str(len(content))
        self.head(206 if begin else 200, headers)
        if self.command == "GET":
            self.wfile.write(content)

    def head(self, status, headers):
        self.send_response(status)
        for name, value in ({"Content-Length": "0"} | headers).items():
            self.send_header(name, value)
        self.end_headers()


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Nothing is printed where a client goes away, as it shall at a limit."""


@contextlib.contextmanager
def serve():
    """A hub without repositories, as long as the block lasts."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with _Server(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        hub.store = f"http://localhost:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
