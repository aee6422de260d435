"""A Hub small enough for a test: what the library's client asks of one, over HTTP, from memory."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlparse

Files = dict[str, bytes]
INITIAL = {".gitattributes": b"*.safetensors filter=lfs\n"}
"""What the Hub puts into every new repository."""
COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """Repositories by name, with files by branch; writes nothing."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.branches: dict[str, dict[str, Files]] = {}
        self.private: set[str] = set()
        self.messages: list[str] = []
        """Of the commits."""
        self.cards: list[str] = []
        """That the client had checked; what has the word `wrong` in it is."""
        self.tokens: set[str | None] = set()
        """What requests were signed with."""
        self.refusal: tuple[int, str] | None = None
        """Status and message of every answer, where set."""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def make(self, repository: str, files: Files | None = None, *, private: bool = False) -> None:
        self.branches[repository] = {"main": {**INITIAL, **(files or {})}}
        if private:
            self.private.add(repository)


@contextmanager
def running_hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Hub

    def do_POST(self) -> None:
        parts = self.parts()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.refused():
            return
        match parts:
            case ["api", "repos", "create"]:
                self.create(json.loads(body))
            case ["api", "validate-yaml"]:
                self.server.cards.append(json.loads(body)["content"])
                errors = [{"message": "wrong"}] if "wrong" in self.server.cards[-1] else []
                self.answer({"errors": errors, "warnings": []}, status=400 if errors else 200)
            case ["api", "models", owner, name, "branch", branch]:
                branches = self.server.branches[f"{owner}/{name}"]
                known = branch in branches
                branches.setdefault(branch, dict(branches["main"]))
                self.answer({}, status=409 if known else 200)
            case ["api", "models", _, _, "preupload", _]:
                paths = [file["path"] for file in json.loads(body)["files"]]
                self.answer(
                    {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
                )
            case ["api", "models", owner, name, "commit", branch]:
                self.commit(self.server.branches[f"{owner}/{name}"][branch], body.splitlines())
                self.answer(
                    {"commitUrl": f"{self.server.endpoint}/{owner}/{name}/commit/{COMMIT}", "commitOid": COMMIT}
                )
            case _:
                self.answer({"error": f"no POST of {parts}"}, status=404)

    def do_GET(self) -> None:
        parts = self.parts()
        if self.refused():
            return
        match parts:
            case ["api", "models", owner, name]:
                repository = f"{owner}/{name}"
                self.answer({"id": repository, "private": repository in self.server.private, "sha": COMMIT})
            case ["api", "models", owner, name, "tree", branch]:
                files = self.server.branches[f"{owner}/{name}"][branch]
                self.answer(
                    [
                        {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                        for path, content in files.items()
                    ]
                )
            case [owner, name, "resolve", branch, *path]:
                self.send(self.server.branches[f"{owner}/{name}"][branch]["/".join(path)])
            case _:
                self.answer({"error": f"no GET of {parts}"}, status=404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def create(self, asked: dict[str, Any]) -> None:
        repository = f"{asked['organization']}/{asked['name']}"
        known = repository in self.server.branches
        if not known:
            self.server.make(repository, private=asked.get("visibility") == "private" or bool(asked.get("private")))
        self.answer({"url": f"{self.server.endpoint}/{repository}"}, status=409 if known else 200)

    def commit(self, files: Files, lines: list[bytes]) -> None:
        for line in map(json.loads, lines):
            value = line["value"]
            match line["key"]:
                case "header":
                    self.server.messages.append(value["summary"])
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "deletedFile":
                    del files[value["path"]]
                case other:
                    raise AssertionError(other)

    def parts(self) -> list[str]:
        authorization = self.headers.get("Authorization")
        self.server.tokens.add(authorization and authorization.removeprefix("Bearer "))
        return [unquote(part) for part in urlparse(self.path).path.strip("/").split("/")]

    def refused(self) -> bool:
        if self.server.refusal is None:
            return False
        status, message = self.server.refusal
        self.answer({"error": message}, status=status)
        return True

    def answer(self, value: Any, status: int = 200) -> None:
        self.send(json.dumps(value).encode(), status)

    def send(self, content: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests are silent."""
