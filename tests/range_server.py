"""A loopback server of files with HTTP's ranges of bytes, in place of an object store."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path


class RangeServer(http.server.BaseHTTPRequestHandler):
    """Files of a folder with HTTP's ranges of bytes, as object stores serve them."""

    folder: Path
    fetched: list[tuple[str, int]] = []

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content, asked = path.read_bytes(), self.headers.get("Range")
        first, last = 0, len(content) - 1
        if asked:
            begin, end = asked.removeprefix("bytes=").split("-")
            first, last = int(begin), min(int(end or last), last)
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last - first + 1))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        self.end_headers()
        if with_body:
            self.fetched.append((path.name, last - first + 1))
            self.wfile.write(content[first : last + 1])

    def log_message(self, *_) -> None:
        pass


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """The address of a server of a folder's files."""
    RangeServer.folder, RangeServer.fetched = folder, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), RangeServer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
