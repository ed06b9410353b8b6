"""A Hub on this machine, in memory: as much of huggingface.co as pushing and loading models and datasets asks for.

    with Hub() as hub:
        subprocess.run([...], env={**os.environ, **hub.environment(cache_folder)})
        hub.repos["someone/model"]["config.json"]
        hub.repos["datasets/someone/films"]["data/train-00000.parquet"]

`huggingface_hub` reads its endpoint when it is imported, so its clients run in processes of their own. Only the newest
commit of a repository is kept. Parquet files are uploaded by Git LFS, as on the real Hub without Xet: by the time of
the commit, `datasets` no longer has them. All others are regular ones.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPO = r"(?P<repo>(datasets/)?[^/]+/[^/]+)"
API = rf"/api/(models/)?{REPO}"


class Hub(ThreadingHTTPServer):
    """The server; `repos` holds the bytes of every file by repository and path, `objects` those of LFS by SHA-256."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Requests)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
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
        if found := self.route(rf"{API}(/revision/[^/]+)?"):
            self.describe(**found)
        elif found := self.route(rf"{API}/tree/[^/]+(/(?P<folder>.+))?"):
            self.list_files(**found)
        else:
            self.do_HEAD()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            self.create(**json.loads(body))
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.route(rf"{API}/preupload/[^/]+"):
            modes = {True: "lfs", False: "regular"}
            self.answer(
                {
                    "files": [
                        {**file, "uploadMode": modes[file["path"].endswith(".parquet")], "shouldIgnore": False}
                        for file in json.loads(body)["files"]
                    ]
                }
            )
        elif self.route(rf"/{REPO}\.git/info/lfs/objects/batch"):
            self.offer_uploads(json.loads(body)["objects"])
        elif found := self.route(rf"{API}/paths-info/[^/]+"):
            self.answer(self.entries(found["repo"], set(json.loads(body)["paths"])))
        elif found := self.route(rf"{API}/commit/[^/]+"):
            self.commit(found["repo"], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer({"error": "unknown route"}, 404)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[hashlib.sha256(data).hexdigest()] = data
        self.answer({})

    def create(self, name: str, organization: str = "someone", type: str = "model", **options) -> None:
        repo = f"{'datasets/' if type == 'dataset' else ''}{organization}/{name}"
        self.server.repos.setdefault(repo, {})
        self.answer({"url": f"{self.server.url}/{repo}", "id": repo})

    def offer_uploads(self, objects: list[dict]) -> None:
        upload = {"upload": {"href": f"{self.server.url}/lfs", "header": {}}}
        self.answer({"transfer": "basic", "objects": [{**item, "actions": upload} for item in objects]})

    def commit(self, repo: str, lines: list[dict]) -> None:
        for line in lines:
            if line["key"] == "file":
                self.server.repos[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                self.server.repos[repo][line["value"]["path"]] = self.server.objects[line["value"]["oid"]]
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
        inside = {path for path in self.server.repos.get(repo, {}) if path.startswith(prefix)}
        if "recursive=true" not in self.path.lower():
            inside = {prefix + path.removeprefix(prefix).split("/")[0] for path in inside}
        if inside:
            self.answer(self.entries(repo, inside))
        else:
            self.refuse(repo)

    def entries(self, repo: str, paths: set[str]) -> list[dict]:
        """What the Hub says of files and folders; of what does not exist, nothing."""
        files = self.server.repos.get(repo, {})
        found: list[dict] = []
        for path in sorted(paths):
            if path in files:
                found.append({"type": "file", "path": path, "size": len(files[path]), "oid": digest(files[path])})
            elif any(name.startswith(f"{path}/") for name in files):
                found.append({"type": "directory", "path": path, "oid": digest(path.encode())})
        return found

    def download(self, repo: str = "", path: str = "") -> None:
        data = self.server.repos.get(repo, {}).get(path)
        if data is None:
            self.refuse(repo)
            return
        headers = {"X-Repo-Commit": self.revision(repo), "ETag": f'"{digest(data)}"', "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):  # streaming reads parts
            start, stop = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
            self.answer(data[start:stop], 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})
        else:
            self.answer(data, 200, headers)

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
