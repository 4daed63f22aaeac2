"""The server beside the bare functions that it is made of, in one sitting.

    python -m benchmarks.serving --model cells.featx --images photos/ --rounds 5

In turn, round by round: one picture at a time through decode + forward + head in this process, and
through HTTP; then many pictures through the threads of `extract` without a cache, and through HTTP
from 64 clients at once, one picture a request and sixteen. Clients and server share the cores.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featx import load_model
from featx.extraction.extraction import extract
from featx.images import decode, image_extensions
from featx.model.prediction import label_rows
from featx.model.references import same_options
from featx.runtime import enter_worker_thread
from featx.serve.labelling import Embedder

RESULTS = Path(__file__).parent / "results"
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def form(pictures: list[bytes]) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
    return b"".join(head + data + b"\r\n" for data in pictures) + b"--x--\r\n"


def ask(client: http.client.HTTPConnection, body: bytes) -> None:
    client.request("POST", "/v1/predict", body, FORM)
    answer = client.getresponse()
    found = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"status {answer.status}: {found[:200]!r}")


@contextmanager
def server(model: Path, *options: str) -> Iterator[tuple[int, float]]:
    """Gives the port, and the seconds from start to first answer."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "featx", "serve", str(model), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        port = int(lines[2].split()[0].rsplit(":", 1)[1])
        yield port, time.perf_counter() - start
        process.terminate()


def in_process(model: Any, pictures: list[bytes], seconds: list[float]) -> None:
    """Decode + forward + head, one by one, in a thread that computes alone as the server's do."""

    def work() -> None:
        enter_worker_thread()
        embedder = Embedder(model, {"progress": False})
        for k, data in enumerate([*pictures[:5], *pictures]):
            start = time.perf_counter()
            pixels = decode(data, embedder.decode, embedder.need)
            label_rows(model, embedder([embedder.draw(pixels)]))
            if k >= 5:
                seconds.append(time.perf_counter() - start)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def by_http(port: int, pictures: list[bytes], seconds: list[float]) -> None:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    for k, data in enumerate([*pictures[:5], *pictures]):
        body = form([data])
        start = time.perf_counter()
        ask(client, body)
        if k >= 5:
            seconds.append(time.perf_counter() - start)
    client.close()


def many(port: int, pictures: list[bytes], clients: int, together: int) -> float:
    """Pictures a second from so many clients, so many pictures a request."""
    bodies = [form(pictures[k : k + together]) for k in range(0, len(pictures), together)]
    work, failed = iter(bodies), []
    lock = threading.Lock()

    def one() -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                body = next(work, None)
            if body is None:
                return
            try:
                ask(client, body)
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return len(pictures) / (time.perf_counter() - start)


def extracted(model: Any, paths: list[str]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        options = {**same_options(model, {}), "compile": "on", "progress": False}
        return extract(paths, Path(folder) / "c.h5", **options).images_per_second


def measure(model_path: Path, paths: list[str], rounds: int, options: list[str]) -> dict[str, Any]:
    model, pictures = load_model(model_path), [Path(p).read_bytes() for p in paths]
    few = pictures[:60]
    rates: dict[str, list[float]] = {}

    def add(name: str, work: Callable[[], float]) -> None:
        rates.setdefault(name, []).append(work())

    extracted(model, paths[:32])  # compiles, and keeps the package
    bare: list[float] = []
    served: list[float] = []
    with server(model_path, *options) as (port, start):
        many(port, pictures[:64], 8, 1)
        for _ in range(rounds):
            in_process(model, few, bare)
            by_http(port, few, served)
            add("extract", lambda: extracted(model, paths))
            add("64 clients, 1 a request", lambda: many(port, pictures, 64, 1))
            add("64 clients, 16 a request", lambda: many(port, pictures, 64, 16))
    found = {name: statistics.median(values) for name, values in rates.items()}
    p50 = {"bare": statistics.median(bare), "served": statistics.median(served)}
    return {
        "start_seconds": start,
        "p50_ms": {name: 1000 * value for name, value in p50.items()},
        "p50_ratio": p50["served"] / p50["bare"],
        "images_per_second": found,
        "share_of_extract": {k: v / found["extract"] for k, v in found.items() if k != "extract"},
        "cores": os.cpu_count(),
        "images": len(paths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--n", type=int, default=960)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "serving.json")
    arguments, rest = parser.parse_known_args()
    listed = sorted(p for p in arguments.images.rglob("*") if p.suffix in image_extensions())
    paths = [str(p) for p in listed[: arguments.n]]
    found = measure(arguments.model, paths, arguments.rounds, rest)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
