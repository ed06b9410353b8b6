"""A Hub on this machine, in memory: as much of huggingface.co as pushing and loading models asks for.

    with Hub() as hub:
        subprocess.run([...], env={**os.environ, **hub.environment(cache_folder)})
        hub.repos["someone/model"]["config.json"]

`huggingface_hub` reads its endpoint when it is imported, so its clients run in processes of their own. Only the newest
commit of a repository is kept, and every file is uploaded as a regular one (no LFS, no Xet).
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPO = r"(?P<repo>[^/]+/[^/]+)"


class Hub(ThreadingHTTPServer):
    """The server; `repos` holds the bytes of every file by repository and path."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Requests)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.shutdown()
        self.server_close()

    def add(self, repo: str, folder: Path) -> None:
        """Hold a copy of a folder's files as this repository."""
        self.repos[repo] = {path.name: path.read_bytes() for path in folder.iterdir()}

    def environment(self, cache: Path) -> dict[str, str]:
        """What sends `huggingface_hub` here, with its cache in a folder of its own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "hf_anything",
            "NO_PROXY": "127.0.0.1",
        }


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.download(**self.route(rf"/{REPO}/resolve/[^/]+/(?P<path>.+)"))

    def do_GET(self) -> None:
        if found := self.route(rf"/api/models/{REPO}(/revision/[^/]+)?"):
            self.describe(**found)
        elif found := self.route(rf"/api/models/{REPO}/tree/[^/]+(/(?P<folder>.+))?"):
            self.list_files(**found)
        else:
            self.do_HEAD()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.create(**json.loads(body))
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.route(rf"/api/models/{REPO}/preupload/[^/]+"):
            files, regular = json.loads(body)["files"], {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": file["path"], **regular} for file in files]})
        elif found := self.route(rf"/api/models/{REPO}/commit/[^/]+"):
            self.commit(found["repo"], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer({"error": "unknown route"}, 404)

    def create(self, name: str, organization: str = "someone", **options) -> None:
        repo = f"{organization}/{name}"
        self.server.repos.setdefault(repo, {})
        self.answer({"url": f"{self.server.url}/{repo}", "id": repo})

    def commit(self, repo: str, lines: list[dict]) -> None:
        for line in lines:
            if line["key"] == "file":
                self.server.repos[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"{self.server.url}/{repo}/commit/{self.revision(repo)}"
        self.answer({"success": True, "commitOid": self.revision(repo), "commitUrl": url})

    def describe(self, repo: str) -> None:
        if repo not in self.server.repos:
            self.refuse(repo)
            return
        files = [{"rfilename": path} for path in self.server.repos[repo]]
        self.answer({"id": repo, "sha": self.revision(repo), "siblings": files, "private": False, "tags": []})

    def list_files(self, repo: str, folder: str | None) -> None:
        prefix = f"{folder}/" if folder else ""
        files = {path: data for path, data in self.server.repos.get(repo, {}).items() if path.startswith(prefix)}
        if not files:
            self.refuse(repo)
            return
        self.answer(
            [{"type": "file", "path": path, "size": len(data), "oid": digest(data)} for path, data in files.items()]
        )

    def download(self, repo: str = "", path: str = "") -> None:
        data = self.server.repos.get(repo, {}).get(path)
        if data is None:
            self.refuse(repo)
            return
        self.answer(data, 200, {"X-Repo-Commit": self.revision(repo), "ETag": f'"{digest(data)}"'})

    def refuse(self, repo: str) -> None:
        """Say what is missing: the repository, or something in it."""
        code = "EntryNotFound" if repo in self.server.repos else "RepoNotFound"
        self.answer({"error": code}, 404, {"X-Error-Code": code})

    def revision(self, repo: str) -> str:
        """The commit's hash, from the repository's content."""
        return digest(repr(sorted(self.server.repos[repo].items())).encode())

    def route(self, pattern: str) -> dict[str, str]:
        """The pattern's named parts in the request's path; empty where it does not fit."""
        found = re.fullmatch(pattern, unquote(urlsplit(self.path).path))
        return found.groupdict() if found else {}

    def answer(self, content: bytes | dict | list, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args) -> None:
        """Keep the tests' output quiet."""


def digest(data: bytes) -> str:
    """Forty hexadecimal digits, like a git hash."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
