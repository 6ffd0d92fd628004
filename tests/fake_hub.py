"""A server that answers as the Hugging Face hub does, of folders on this machine."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from toy_diffusers import COMMIT

LARGE = (".safetensors", ".bin")


class Hub:
    """What it has, and what was asked of it.

    Attributes:
        repositories: Folders by name.
        gated: Names that ask for a token.
        asked: Paths of all requests, files' contents as "GET path".
        tokens: Those that came with requests.
    """

    def __init__(self, **repositories):
        self.repositories = {name.replace("__", "/"): f for name, f in repositories.items()}
        self.gated, self.asked, self.tokens = set(), [], set()
        self.url = ""

    def fetched(self):
        """Names of the files whose contents were asked for."""
        return sorted(
            {a.split("/resolve/")[1].split("/", 1)[1] for a in self.asked if "/resolve/" in a}
        )

    def answer(self, method, path, token):
        """Status, headers and content."""
        path, _, _ = path.partition("?")
        self.asked.append(f"{method} {path}")
        if token:
            self.tokens.add(token)
        found = re.fullmatch(
            r"/(?:api/models/)?([^/]+/[^/]+)/(revision|resolve)/(\w+)/?(.*)", path
        )
        if found is None:
            return 404, {}, b""
        name, kind, revision, file = found.groups()
        if name not in self.repositories:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        if revision not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        folder = self.repositories[name]
        if kind == "revision":
            return 200, {"Content-Type": "application/json"}, self._info(name, folder)
        if name in self.gated and token != "Bearer mine":
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if not (folder / file).is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
        content = (folder / file).read_bytes()
        digest = (hashlib.sha256 if file.endswith(LARGE) else hashlib.sha1)(content).hexdigest()
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"'}, content

    def _info(self, name, folder):
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        siblings = [
            {
                "rfilename": p.relative_to(folder).as_posix(),
                "size": p.stat().st_size,
                "blobId": "0",
            }
            for p in files
        ]
        said = {"_id": "0", "id": name, "modelId": name, "sha": COMMIT, "siblings": siblings}
        said |= {"tags": ["diffusers", "license:apache-2.0"], "private": False}
        said |= {"gated": "auto" if name in self.gated else False, "downloads": 0, "likes": 0}
        return json.dumps(said).encode()


@contextmanager
def serve(**repositories):
    """A hub with folders under names, "/" in them written "__"."""
    hub = Hub(**repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            status, headers, content = hub.answer(
                self.command, self.path, self.headers.get("Authorization")
            )
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
