"""A stand-in for the Hugging Face hub on the loopback interface, with one CSV and one Parquet data set.

Run as a program, it reads all tasks of both through `source.hf_dataset` and prints the answers as JSON.
"""

import hashlib
import http.server
import io
import json
import os
import re
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq

COMMIT = "a" * 40
JSON = ("Content-Type", "application/json")


def _parquet(answers: list[str]) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table({"question": [f"q{at}" for at in range(len(answers))], "answer": answers}), data)
    return data.getvalue()


REPOSITORIES = {
    "own/sums": {
        "train.csv": b"\xef\xbb\xbfquestion,answer\nq0,0012\nq1,2024-01-05\n",
        "test.csv": b"question,answer\nq0,007\n",
    },
    "own/typed": {"train.parquet": _parquet(["0012", "2024-01-05"]), "test.parquet": _parquet(["007"])},
}


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers what `datasets` and `huggingface_hub` ask for."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        """Send a file, a listing, or the description of a repository."""
        path = self.path.split("?")[0]
        if match := re.match(r"/datasets/(\w+/\w+)/resolve/[^/]+/(.+)", path):
            self._send_file(REPOSITORIES.get(match[1], {}).get(match[2]))
        elif (match := re.match(r"/api/datasets/(\w+/\w+)", path)) and match[1] in REPOSITORIES:
            files = REPOSITORIES[match[1]]
            described = {"id": match[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            listed = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in files.items()
            ]
            self._send(json.dumps(listed if "/tree/" in path else described).encode(), JSON)
        else:
            self._send(b"{}", ("X-Error-Code", "RepoNotFound"), code=404)

    do_HEAD = do_GET  # noqa: N815  # the name that http.server calls

    def _send_file(self, data: bytes | None) -> None:
        commit = ("X-Repo-Commit", COMMIT)
        if data is None:
            self._send(b"", ("X-Error-Code", "EntryNotFound"), commit, code=404)
            return
        tag, code = hashlib.sha1(data).hexdigest(), 200
        if part := re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            data, code = data[int(part[1]) : int(part[2]) + 1 if part[2] else None], 206
        self._send(data, ("ETag", f'"{tag}"'), commit, code=code)

    def _send(self, body: bytes, *headers: tuple[str, str], code: int = 200) -> None:
        self.send_response(code)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def main() -> None:
    """Read both data sets, loaded whole and as streams."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": sys.argv[1], "NO_PROXY": "*"}
    from genrl_graph.nodes.source.hf_dataset import HfDataset

    answers = {}
    for path in REPOSITORIES:
        for streaming in (False, True):
            source = HfDataset(path=path, eval_split="test", num_tasks=2, streaming=streaming)
            source.prepare()
            keys = ("0", "1", "eval-0")
            answers[f"{path} {streaming}"] = [source.resolve(f"source.hf_dataset/{key}").answer for key in keys]
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
