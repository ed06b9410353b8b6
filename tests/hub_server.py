"""A Hub on this machine, in memory: as much of huggingface.co as pushing and loading models and datasets asks for.

    with Hub() as hub:
        subprocess.run([...], env={**os.environ, **hub.environment(cache_folder)})
        hub.repos["someone/model"]["config.json"]
        hub.repos["datasets/someone/films"]["data/train-00000.parquet"]

`huggingface_hub` reads its endpoint when it is imported, so its clients run in processes of their own. Parquet files
and weights are uploaded by Git LFS, as on the real Hub without Xet: by the time of the commit, `datasets` no longer has
the former. All others are regular ones.

    hub.refused["hf_reader"] = 403      this token may not write; 401: it is no token
    hub.private.add("someone/model")    only tokens that are not refused see it
    hub.dropped = {"PUT"}               connections break off: PUT of large files, POST of commits, GET amid files
"""

import base64
import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPO = r"(?P<repo>(datasets/)?[^/]+/[^/]+)"
API = rf"/api/(models/)?{REPO}"


class Hub(ThreadingHTTPServer):
    """The server; `repos` holds the bytes of every file by repository and path, `objects` those of LFS by SHA-256.

    `revisions` holds files by repository and commit or branch, for branches other than main; `requests` what was asked.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Requests)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.objects: dict[str, bytes] = {}
        self.revisions: dict[tuple[str, str], dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.refused: dict[str, int] = {}
        self.dropped: set[str] = set()
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.shutdown()
        self.server_close()

    def add(self, repo: str, folder: Path) -> None:
        """Hold a copy of a folder's files as this repository."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        self.repos[repo] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes] | None:
        """The files of a branch or commit; None where there is no such revision."""
        newest = self.repos[repo]
        return newest if revision in ("main", commit_hash(newest)) else self.revisions.get((repo, revision))

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
        self.download(**self.route(rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)"))

    def do_GET(self) -> None:
        if found := self.route(rf"{API}(/revision/(?P<revision>[^/]+))?"):
            self.describe(**found)
        elif found := self.route(rf"{API}/tree/(?P<revision>[^/]+)(/(?P<folder>.+))?"):
            self.list_files(**found)
        else:
            self.do_HEAD()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if status := self.refused():
            self.answer({"error": "refused"}, status)
        elif self.path == "/api/repos/create":
            self.create(**json.loads(body))
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.route(rf"{API}/preupload/[^/]+"):
            self.answer({"files": [self.upload_mode(file) for file in json.loads(body)["files"]]})
        elif self.route(rf"/{REPO}\.git/info/lfs/objects/batch"):
            self.offer_uploads(json.loads(body)["objects"])
        elif found := self.route(rf"{API}/paths-info/(?P<revision>[^/]+)"):
            files = self.server.files(found["repo"], found["revision"]) or {}
            self.answer(self.entries(files, set(json.loads(body)["paths"])))
        elif found := self.route(rf"{API}/branch/(?P<branch>[^/]+)"):
            self.branch(**found)
        elif found := self.route(rf"{API}/commit/(?P<revision>[^/]+)"):
            self.commit(**found, lines=[json.loads(line) for line in body.splitlines()])
        else:
            self.answer({"error": "unknown route"}, 404)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if "PUT" in self.server.dropped:
            self.drop()
            return
        self.server.requests.append(f"PUT {len(data)}")
        self.server.objects[hashlib.sha256(data).hexdigest()] = data
        self.answer({})

    def refused(self) -> int | None:
        """The status of what the token may not do, for requests that write."""
        return self.server.refused.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def drop(self) -> None:
        """End the connection without an answer, or in its midst."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def upload_mode(self, file: dict) -> dict:
        mode = "lfs" if file["path"].endswith((".parquet", ".safetensors")) else "regular"
        return {**file, "uploadMode": mode, "shouldIgnore": False}

    def create(
        self, name: str, organization: str | None = None, type: str = "model", visibility: str = "public", **options
    ) -> None:
        repo = f"{'datasets/' if type == 'dataset' else ''}{organization or 'someone'}/{name}"
        exists = repo in self.server.repos
        self.server.repos.setdefault(repo, {})
        if visibility == "private" and not exists:
            self.server.private.add(repo)
        self.answer({"url": f"{self.server.url}/{repo}", "id": repo}, 409 if exists else 200)

    def branch(self, repo: str, branch: str) -> None:
        exists = (repo, branch) in self.server.revisions
        self.server.revisions.setdefault((repo, branch), dict(self.server.repos[repo]))
        self.answer({}, 409 if exists else 200)

    def offer_uploads(self, objects: list[dict]) -> None:
        """Where to put the objects that are not there yet."""
        upload = {"actions": {"upload": {"href": f"{self.server.url}/lfs", "header": {}}}}
        offers = [{**item, **({} if item["oid"] in self.server.objects else upload)} for item in objects]
        self.answer({"transfer": "basic", "objects": offers})

    def commit(self, repo: str, revision: str, lines: list[dict]) -> None:
        if "POST" in self.server.dropped:
            self.drop()
            return
        files = self.server.files(repo, revision)
        assert files is not None
        self.server.revisions[repo, commit_hash(files)] = dict(files)
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "lfsFile":
                files[line["value"]["path"]] = self.server.objects[line["value"]["oid"]]
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        self.server.revisions[repo, commit_hash(files)] = dict(files)
        url = f"{self.server.url}/{repo}/commit/{commit_hash(files)}"
        self.answer({"success": True, "commitOid": commit_hash(files), "commitUrl": url})

    def describe(self, repo: str, revision: str | None) -> None:
        if (files := self.readable(repo, revision or "main")) is not None:
            siblings = [{"rfilename": path} for path in files]
            private = repo in self.server.private
            self.answer({"id": repo, "sha": commit_hash(files), "siblings": siblings, "private": private, "tags": []})

    def list_files(self, repo: str, revision: str, folder: str | None) -> None:
        if (files := self.readable(repo, revision)) is None:
            return
        prefix = f"{folder}/" if folder else ""
        inside = {path for path in files if path.startswith(prefix)}
        if "recursive=true" not in self.path.lower():
            inside = {prefix + path.removeprefix(prefix).split("/")[0] for path in inside}
        if inside or not folder:
            self.answer(self.entries(files, inside))
        else:
            self.refuse("EntryNotFound")

    def entries(self, files: dict[str, bytes], paths: set[str]) -> list[dict]:
        """What the Hub says of files and folders; of what does not exist, nothing."""
        found: list[dict] = []
        for path in sorted(paths):
            if path in files:
                found.append({"type": "file", "path": path, "size": len(files[path]), "oid": digest(files[path])})
            elif any(name.startswith(f"{path}/") for name in files):
                found.append({"type": "directory", "path": path, "oid": digest(path.encode())})
        return found

    def download(self, repo: str = "", revision: str = "", path: str = "") -> None:
        if (files := self.readable(repo, revision)) is None:
            return
        if path not in files:
            self.refuse("EntryNotFound")
            return
        data = files[path]
        headers = {"X-Repo-Commit": commit_hash(files), "ETag": f'"{digest(data)}"', "Accept-Ranges": "bytes"}
        if self.command == "GET":
            self.server.requests.append(f"GET {path} {self.headers.get('Range', 'whole')}")
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):  # streaming reads parts
            start, stop = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
            self.answer(data[start:stop], 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})
        else:
            self.answer(data, 200, headers)

    def readable(self, repo: str, revision: str) -> dict[str, bytes] | None:
        """The files of a revision; None after a refusal was sent."""
        if repo not in self.server.repos or (repo in self.server.private and self.refused() == 401):
            self.refuse("RepoNotFound", 404 if repo not in self.server.repos else 401)
            return None
        if (files := self.server.files(repo, revision)) is None:
            self.refuse("RevisionNotFound")
        return files

    def refuse(self, code: str, status: int = 404) -> None:
        """Say what is missing: the repository, its revision, or a file in it."""
        self.answer({"error": code}, status, {"X-Error-Code": code})

    def route(self, pattern: str) -> dict[str, str]:
        """The pattern's named parts in the request's path; empty where it does not fit."""
        found = re.fullmatch(pattern, urlsplit(self.path).path)
        return {name: unquote(part) if part else part for name, part in found.groupdict().items()} if found else {}

    def answer(self, content: bytes | dict | list, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(content, bytes) and "GET" in self.server.dropped and len(data) > 4096:
            self.wfile.write(data[: len(data) // 2])
            self.drop()
        else:
            self.wfile.write(data)

    def log_message(self, *args) -> None:
        """Keep the tests' output quiet."""


def commit_hash(files: dict[str, bytes]) -> str:
    """The hash of a commit, from its content."""
    return digest(repr(sorted(files.items())).encode())


def digest(data: bytes) -> str:
    """Forty hexadecimal digits, like a git hash."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
