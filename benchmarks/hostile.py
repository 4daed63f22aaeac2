"""What hostile files cost: processes, tracebacks, memory, time; and a server under attack.

    python -m benchmarks.hostile                    # the corpus, then the server
    python -m benchmarks.hostile --files 100000     # also a folder of so many files, 5 % bad

Each file of the corpus is decoded in a process of its own that notes what it starts. The server is
attacked by pictures that take seconds, by 1,000 connections that say nothing, and asked 2,000 times
in a row. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import socket
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.hostile_pictures import LARGE, PICTURES, encoded, jpeg_scans, small
from featx.errors import ImageError
from featx.images.decoding import decode

PROCESSES = ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "os.fork", "pty.spawn")
NETWORK = {"backbone": "timm:test_resnet", "weights": "random", "precision": "fp32"}
BAD = ("iptc-eps.jpg", "header.png", "exif.png", "tile.tif", "frame.gif", "noise.jpg", "empty.jpg")


def decode_all(names: list[str]) -> dict[str, Any]:
    """Decode each in a process of its own."""
    outcomes: Counter[str] = Counter()
    slowest, largest = (0.0, ""), (0, "")
    for name in names:
        data = {**PICTURES, **LARGE}[name]()
        outcome, seconds, peak = decode_alone(data)
        outcomes[outcome] += 1
        slowest, largest = max(slowest, (seconds, name)), max(largest, (peak, name))
        print(f"{name}: {outcome}, {seconds:.2f} s, {peak} MB", file=sys.stderr, flush=True)
    return {
        "files": len(names),
        "read": outcomes["read"],
        "refused": outcomes["refused"],
        "processes_started": outcomes["started"],
        "tracebacks": outcomes["traceback"],
        "longest_seconds": {slowest[1]: round(slowest[0], 2)},
        "peak_megabytes": {largest[1]: largest[0]},
    }


def decode_alone(data: bytes) -> tuple[str, float, int]:
    """Give what became of a picture, seconds of the processor, and the peak of memory in MB."""
    pid = os.fork()
    if pid == 0:
        os._exit(_outcome(data))
    _, status, usage = os.wait4(pid, 0)
    kinds = {0: "read", 10: "refused", 11: "started", 12: "traceback"}
    outcome = kinds.get(os.waitstatus_to_exitcode(status), "traceback")
    return outcome, usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024


def _outcome(data: bytes) -> int:
    started: list[str] = []
    sys.addaudithook(lambda kind, details: started.append(kind) if kind in PROCESSES else None)
    try:
        decode(data)
        code = 0
    except ImageError:
        code = 10
    except BaseException:
        code = 12
    return 11 if started else code


def make_model(folder: Path) -> Path:
    from PIL import Image

    from featx import extract, fit

    for k in range(40):
        colour = ("red", "blue")[k % 2]
        place = folder / "train" / colour / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 40), 30 + k).convert("RGB").save(place)
    extract(folder / "train", folder / "train.h5", input_size=64, progress=False, **NETWORK)
    fit(folder / "train.h5", head="logreg", out=folder / "m.featx")
    return folder / "m.featx"


def attack(model: Path, given: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.serving import form, server  # torch: not before the corpus is measured

    n_bombs, n_clients = given.bombs, given.clients
    bomb, honest = form([jpeg_scans(95, 4900)]), form([encoded(small(), "PNG")])
    with server(model, "--max-seconds", "120") as (port, _):
        ask(port, honest)
        with ThreadPoolExecutor(n_bombs + n_clients) as pool:
            bombs = [pool.submit(ask, port, bomb) for _ in range(n_bombs)]
            time.sleep(1)  # they are there first
            clients = [pool.submit(ask, port, honest) for _ in range(n_clients)]
            seconds = sorted(found.result()[1] for found in clients)
            answered = sum(found.result()[0] == 200 for found in clients)
            during = sum(not found.done() for found in bombs)
            refused = Counter(str(found.result()[0]) for found in bombs)
        flat = _many(port, honest, given.requests)
        slow = _slow(port, honest, given.slow)
    return {
        "bombs": n_bombs,
        "bombs_by_status": dict(refused),
        "bombs_left_when_the_last_client_was_answered": during,
        "clients": n_clients,
        "answered_during_attack": answered,
        "seconds_of_clients": {"median": seconds[len(seconds) // 2], "most": seconds[-1]},
        "requests_in_a_row": flat,
        "slow_connections": slow,
    }


def ask(port: int, body: bytes) -> tuple[int, float]:
    start = time.perf_counter()
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        client.request("POST", "/v1/predict", body, kind)
        answer = client.getresponse()
        answer.read()
        return answer.status, round(time.perf_counter() - start, 2)
    finally:
        client.close()


def _many(port: int, body: bytes, n_requests: int) -> dict[str, Any]:
    """Ask again and again, and compare the server's memory at a tenth of the way and at the end."""
    sizes = []
    for part in (n_requests // 10, n_requests - n_requests // 10):
        failed = sum(ask(port, body)[0] != 200 for _ in range(part))
        sizes.append(_resident(_listener(port)))
    return {"requests": n_requests, "failed": failed, "megabytes": sizes}


def _slow(port: int, body: bytes, n_slow: int) -> dict[str, Any]:
    """Open connections that say nothing, and ask the server meanwhile."""
    held = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(n_slow)]
    try:
        found = [ask(port, body) for _ in range(20)]
    finally:
        for connection in held:
            connection.close()
    return {"connections": n_slow, "answered": sum(status == 200 for status, _ in found), "of": 20}


def _listener(port: int) -> int:
    """Find the process of this one's children that listens."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if parent == os.getpid() and b"serve" in words:
                return int(entry.name)
    raise RuntimeError(f"no server on port {port}")


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


def extract_many(folder: Path, n_files: int) -> dict[str, Any]:
    """Extract a folder in which one file of twenty is bad; every bad one must be in `failed`."""
    from featx import extract

    good = [encoded(small().rotate(k), "PNG") for k in range(16)]
    bad = [PICTURES[name]() for name in BAD]
    for k in range(n_files):
        place = folder / "many" / f"{k // 1000:04}" / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(bad[k // 20 % len(bad)] if k % 20 == 0 else good[k % 16] + b"%d" % k)
    start = time.perf_counter()
    found = extract(
        folder / "many", folder / "many.h5", input_size=32, progress=False, **NETWORK
    ).to_dict()
    return {
        "files": n_files,
        "embedded": found["embedded"],
        "failed": found["failed"],
        "bad": -(-n_files // 20),
        "seconds": round(time.perf_counter() - start, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bombs", type=int, default=20)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--slow", type=int, default=1000)
    parser.add_argument("--files", type=int, default=0, help="of a folder with 5 %% bad ones")
    parser.add_argument("--without-large", action="store_true", help="skip 13,300 x 13,300 pixels")
    given = parser.parse_args()
    names = [*PICTURES, *([] if given.without_large else LARGE)]
    found: dict[str, Any] = {"corpus": decode_all(names)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = make_model(folder)
        found["server"] = attack(model, given)
        if given.files:
            found["folder"] = extract_many(folder, given.files)
    print(json.dumps(found, indent=2))
    corpus = found["corpus"]
    return int(bool(corpus["processes_started"] or corpus["tracebacks"]))


if __name__ == "__main__":
    sys.exit(main())
