"""A real Ray cluster on this machine: the same cache as one process, whatever dies."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Shell, save_pictures, slow_network

from featx.cache import open_cache
from featx.errors import DeviceError, ExtractError
from featx.extraction.cluster import Crew, connected, find_crew
from featx.extraction.extraction import extract
from featx.extraction.options import ExtractOptions

pytest.importorskip("ray.data")

ON_RAY = ("--engine", "ray", "--address", "local", "--workers", "2", "--json")


def same_rows(one: Path, other: Path) -> None:
    with open_cache(one) as a, open_cache(other) as b:
        assert a.ids == b.ids
        np.testing.assert_array_equal(np.asarray(a.X), np.asarray(b.X))
        assert a.failed == b.failed
        assert b.verify().ok


def workers_of(cache: Path) -> list[int]:
    signed = cache.with_name(f"{cache.name}.parts").glob("workers-*/*")
    found = [int(path.name.rpartition("-")[2]) for path in signed]
    return [pid for pid in found if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
def test_two_ray_workers_give_the_rows_of_one_process(
    tmp_path: Path,
    tiny: dict[str, Any],
    tiny_flags: list[str],
    process: Shell,
) -> None:
    save_pictures(tmp_path / "photos", 300, suffix=".bmp")
    (tmp_path / "photos" / "cat" / "zz.bmp").write_bytes(b"BM")
    one = extract(tmp_path / "photos", tmp_path / "one.h5", **tiny)
    # Relative names mean the same to the workers.
    done = process("extract", "photos", "two.h5", *tiny_flags, *ON_RAY, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("featx: extract: ")]
    assert said == ["failed: cat/zz.bmp: not an image of a known format"]
    two = json.loads(done.stdout)
    assert set(two) == set(one.to_dict()) - {"failures"}
    names = ("fingerprint", "discovered", "embedded", "reused", "failed", "taps", "precision")
    assert [two[name] for name in names] == [getattr(one, name) for name in names]
    same_rows(tmp_path / "one.h5", tmp_path / "two.h5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.h5", "photos", "two.h5"]


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{}, {"RAY_ADDRESS": "127.0.0.1:9"}])
def test_no_cluster_at_the_address(
    photos: Path,
    environment: dict[str, str],
    process: Shell,
) -> None:
    address = "auto" if environment else "ray://127.0.0.1:9"
    asked = ("extract", photos, photos.parent / "c.h5", "--engine", "ray", "--address", address)
    done = process(*asked, env=os.environ | environment)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "no Ray cluster at" in done.stderr
    assert "127.0.0.1:9: [Errno 111]" in done.stderr
    assert [p.name for p in photos.parent.iterdir()] == ["photos"]


def test_a_local_cluster_gets_several_chances_to_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import ray

    asked: list[str] = []

    def starts(at: int) -> None:
        asked.clear()

        def init(address: str, **_: Any) -> None:
            asked.append(address)
            if len(asked) < at:
                raise Exception("timed out\nduring startup")  # the kind that Ray raises

        monkeypatch.setattr(ray, "init", init)

    monkeypatch.setattr(ray, "nodes", lambda: [node(2)])
    local = ExtractOptions(engine="ray", address="local")
    starts(at=3)
    with connected(local) as crew:
        assert crew == Crew(1, 2, 0)
    assert asked == ["local"] * 3
    starts(at=4)
    with pytest.raises(
        ExtractError, match=r"does not start on this machine: .*timed out during startup;"
    ):
        connected(local).__enter__()
    assert asked == ["local"] * 3


@pytest.mark.slow
def test_something_else_listens_at_the_address(photos: Path, process: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        asked = ("extract", photos, photos.parent / "c.h5", "--engine", "ray")
        done = process(*asked, "--address", address)
    assert done.returncode == 1
    assert done.stderr.startswith(f"featx: no Ray cluster at {address}: ")
    assert done.stderr.count("\n") == 1


def test_without_ray_the_extra_is_named(photos: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from featx.cli import main; main()"
    asked = [sys.executable, "-c", code, "extract", photos, photos.parent / "c.h5"]
    done = subprocess.run(
        [*map(str, asked), "--engine", "ray"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "pip install 'featx[ray]'" in done.stderr


def node(cpus: float, gpus: float = 0, alive: bool = True) -> dict[str, Any]:
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}}


@pytest.mark.parametrize(
    ("nodes", "options", "crew"),
    [
        ([node(2)], {"workers": 2}, Crew(2, 1, 0)),
        ([node(8), node(8), node(4, alive=False)], {}, Crew(2, 8, 0)),
        ([node(8), node(2)], {"workers": 3}, Crew(3, 2, 0)),
        ([node(0), node(16, 4)], {}, Crew(4, 4, 1)),
        ([node(16, 4)], {"gpus_per_worker": 0.5}, Crew(8, 2, 0.5)),
        ([node(16, 4)], {"device": "cpu"}, Crew(1, 16, 0)),
    ],
)
def test_a_cluster_is_shared_out(
    nodes: list[dict[str, Any]], options: dict[str, Any], crew: Crew
) -> None:
    assert find_crew(nodes, ExtractOptions(**options)) == crew


def test_a_cluster_that_is_too_small() -> None:
    with pytest.raises(DeviceError, match="room for 2 workers of a core and 1 GPUs each"):
        find_crew([node(8, 2)], ExtractOptions(workers=3))
    with pytest.raises(DeviceError, match="room for 0 workers"):
        find_crew([node(8)], ExtractOptions(gpus_per_worker=1))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_kills_lose_nothing(tmp_path: Path) -> None:
    save_pictures(tmp_path / "photos", 600, suffix=".bmp")
    asked = [sys.executable, "-m", "featx", "extract", "photos"]
    network = slow_network(tmp_path, seconds=0.3)
    run = subprocess.Popen(
        [*asked, "c.h5", *network, *ON_RAY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    killed: set[int] = set()
    while len(killed) < 10 and run.poll() is None:
        there = [pid for pid in workers_of(tmp_path / "c.h5") if pid not in killed]
        time.sleep(1)
        if there:
            os.kill(there[len(killed) % len(there)], signal.SIGKILL)
            killed.add(there[len(killed) % len(there)])
    output, log = run.communicate()
    assert run.returncode == 0, log
    assert len(killed) == 10
    assert "died and were started again" in log
    assert json.loads(output)["embedded"] == 600
    subprocess.run([*asked, "one.h5", *network], cwd=tmp_path, check=True, capture_output=True)
    same_rows(tmp_path / "one.h5", tmp_path / "c.h5")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_machine_of_the_cluster_that_dies_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    save_pictures(tmp_path / "photos", 600, suffix=".bmp")
    asked = [sys.executable, "-m", "featx", "extract", "photos"]
    network = slow_network(tmp_path, seconds=0.3)
    machine = {"num_cpus": 1, "object_store_memory": 100_000_000}
    head = machine | {"include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        other = cluster.add_node(**machine)
        on_cluster = ("--engine", "ray", "--address", cluster.address, "--json")
        run = subprocess.Popen(
            [*asked, "c.h5", *network, *on_cluster],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        # By default each machine gets a worker.
        while len(workers_of(tmp_path / "c.h5")) < 2 and run.poll() is None:
            time.sleep(0.2)
        assert run.poll() is None, run.communicate()  # else nothing is lost with the machine
        cluster.remove_node(other, allow_graceful=False)
        output, log = run.communicate()
    finally:
        cluster.shutdown()
    assert run.returncode == 0, log
    assert json.loads(output)["embedded"] == 600
    subprocess.run([*asked, "one.h5", *network], cwd=tmp_path, check=True, capture_output=True)
    same_rows(tmp_path / "one.h5", tmp_path / "c.h5")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_interrupted_run_keeps_its_rows_and_goes_on(tmp_path: Path) -> None:
    save_pictures(tmp_path / "photos", 600, suffix=".bmp")
    network = slow_network(tmp_path, seconds=0.5)
    asked = [sys.executable, "-m", "featx", "extract", "photos", "c.h5", *network, *ON_RAY]
    run = subprocess.Popen(asked, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    parts = tmp_path / "c.h5.parts"
    while not list(parts.glob("*/[!.]*.h5")) and run.poll() is None:
        time.sleep(0.2)
    workers = workers_of(tmp_path / "c.h5")
    run.send_signal(signal.SIGINT)
    _, log = run.communicate()
    assert run.returncode == 130, log
    assert "images are done and kept" in log
    assert not list(parts.glob("workers-*"))
    end = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < end, "the workers outlive the run"
        time.sleep(0.2)
    again = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["reused"] >= 64
    assert found["embedded"] + found["reused"] == 600
    idle = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert idle.returncode == 0, idle.stderr
    assert json.loads(idle.stdout)["reused"] == 600


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", [("--workers", "2"), ON_RAY])
def test_workers_that_always_die_end_the_run(tmp_path: Path, engine: tuple[str, ...]) -> None:
    save_pictures(tmp_path / "photos", 200, suffix=".bmp")
    # The first images are this process's own where the engine is local.
    then = "__import__('os').getppid() != int(__import__('os').environ['PARENT']) and exit_now()"
    network = slow_network(tmp_path, 0, then)
    module = tmp_path / "slow.py"
    module.write_text(module.read_text() + "\n\ndef exit_now():\n    import os\n    os._exit(9)\n")
    code = "from featx.extraction.gathering import Deaths; Deaths.MOST = 3; "
    code += "from featx.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "extract", "photos", "c.h5", *network, *engine],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env=os.environ | {"PARENT": str(os.getpid())},
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "workers died" in last, done.stderr
    assert "run the same command again" in last


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_fails_in_a_worker_is_one_line(
    tmp_path: Path, tiny_flags: list[str], process: Shell
) -> None:
    save_pictures(tmp_path / "photos", 100, suffix=".bmp")
    for k in range(5):
        (tmp_path / "photos" / f"z{k}.bmp").write_bytes(b"BM")
    asked = ("extract", "photos", "c.h5", *tiny_flags, *ON_RAY)
    done = process(*asked, "--on-error", "fail", cwd=tmp_path)
    assert done.returncode == 1
    assert re.search(r"^featx: z\d\.bmp: .* \(--on-error fail\)$", done.stderr, re.MULTILINE)
    done = process(*asked, "--max-failed", "3", cwd=tmp_path)
    assert done.returncode == 1
    assert "more than 3 images failed" in done.stderr
    done = process(*asked, "--max-failed", "5", cwd=tmp_path)
    assert done.returncode == 3
