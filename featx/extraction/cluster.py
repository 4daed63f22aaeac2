"""A Ray cluster: connecting to it within a time limit, and how it is shared out to workers."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from featx.errors import DeviceError, ExtractError, FeatxError, MissingExtraError, brief
from featx.extraction.gathering import Deaths
from featx.extraction.options import ExtractOptions
from featx.runtime import RuntimePlan, plan_runtime
from featx.runtime.machine import cpu_cores

_QUIET = {  # what Ray prints would stand between the results on stdout; deaths are said by featx
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_enable_metrics_collection": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",
}


def load_ray() -> ModuleType:
    """Import Ray, or say what to install.

    Raises
    ------
    MissingExtraError
        If Ray Data is not installed.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    try:
        with quiet():
            import ray
            import ray.data
    except ImportError as error:
        raise MissingExtraError(
            f"--engine ray needs Ray Data ({error}); install it with pip install 'featx[ray]'"
        ) from None
    return ray


@contextmanager
def quiet() -> Iterator[None]:
    """Ray warns of its own settings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for name in ("ray", "ray.data", "ray.serve", "ray._private"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def silent() -> Iterator[None]:
    """Drop what is written to stderr: on starting, Ray's core tells how much it will tell."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def data_context() -> Iterator[None]:
    """Keep Ray Data silent, and let a slow network take its time."""
    with quiet():
        context = load_ray().data.DataContext.get_current()
        wanted = {
            "enable_progress_bars": False,
            "print_on_execution_start": False,
            "execution_no_progress_timeout_s": -1,
            "max_consecutive_actor_init_deaths": Deaths.MOST,
        }
        before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}
        for name in before:
            setattr(context, name, wanted[name])
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(context, name, value)


log = logging.getLogger("featx")

FEEDER = "featx-feeder"
"""Name of the thread that takes the answers of the workers from Ray Data."""

_CONNECT_SECONDS = 10.0
_HEALTH_SECONDS = 40.0  # a Python that imports Ray on a busy machine
_START_SECONDS = 600.0  # until the first worker runs; a cluster that grows on demand needs minutes
_LOCAL_STARTS = 3  # Ray gives its processes 30 s to answer, which a busy machine may exceed
_STORE_BYTES = 200_000_000  # of a local cluster; ids and digests are all that it holds


@dataclass(frozen=True)
class Crew:
    """How many workers a cluster runs, and what each of them reserves."""

    workers: int
    cpus: int
    gpus: float

    def remote(self, function: Callable[..., Any]) -> Any:
        """`function` as a Ray task with the resources of one worker."""
        needs = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": Deaths.MOST}
        return load_ray().remote(**needs)(function)


@contextmanager
def connected(options: ExtractOptions) -> Iterator[Crew]:
    """Connect to the cluster at ``options.address``, and leave it at the end.

    A connection that this process has already is used as it is, and kept.

    Raises
    ------
    MissingExtraError
        If Ray is not installed.
    ExtractError
        If there is no cluster at the address, or it cannot run the workers.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield find_crew(ray.nodes(), options)
        return
    _connect(ray, options)
    try:
        yield find_crew(ray.nodes(), options)
    finally:
        with quiet(), silent():  # threads of a data set that was broken off complain
            ray.shutdown()
            for thread in threading.enumerate():
                if thread.name.startswith((FEEDER, "StreamingExecutor")):
                    thread.join(_CONNECT_SECONDS)


def _connect(ray: Any, options: ExtractOptions) -> None:
    address = options.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        settings |= {
            "num_cpus": max(cpu_cores(), options.workers or 1),
            "object_store_memory": _STORE_BYTES,
            "include_dashboard": False,
            # Ray runs workers at 15, behind all else on a machine that is this command's own.
            "_system_config": {"worker_niceness": 0},
        }
    else:
        _require_cluster(address)
    starts = _LOCAL_STARTS if address == "local" else 1
    for start in range(1, starts + 1):
        try:
            with quiet(), silent():
                logging.getLogger("ray").setLevel(logging.ERROR)
                ray.init(address=address, configure_logging=False, **settings)
            return
        except Exception as error:  # Ray raises many kinds, a bare Exception among them
            with quiet(), silent():
                ray.shutdown()
            if start == starts:
                raise _no_cluster(address, brief(error, 300)) from None


def _no_cluster(address: str, why: object) -> ExtractError:
    if address == "local":
        return ExtractError(
            f"Ray does not start on this machine: {why}; its logs (/tmp/ray/session_latest/logs) "
            "say more, and --workers N without --engine ray runs workers here, too"
        )
    return ExtractError(
        f"no Ray cluster at {address}: {why}; start one with `ray start --head`, or pass --address "
        "local to run one on this machine"
    )


def _require_cluster(address: str) -> None:
    """Refuse an address where no Ray answers; Ray itself would wait there without an end."""
    if address != "auto":
        _require_listener(address)
    if address.startswith("ray://"):
        return  # Ray Client has a limit of its own
    check = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    check += [] if address == "auto" else ["--address", address]
    try:
        done = subprocess.run(check, capture_output=True, timeout=_HEALTH_SECONDS, check=False)
        healthy, refused = done.returncode == 0, b"AuthenticationError" in done.stderr
    except subprocess.TimeoutExpired:
        healthy = refused = False
    if refused:
        raise ExtractError(
            f"the Ray cluster at {address} asks for a token; set RAY_AUTH_MODE=token and give this "
            "user the cluster's token (Ray's page on token authentication says how)"
        )
    if not healthy:
        raise _no_cluster(address, "`ray health-check` fails")


def _require_listener(address: str) -> None:
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        port = parts.port or (10001 if parts.scheme == "ray" else 6379)
        socket.create_connection((parts.hostname or "", port), _CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ExtractError(
            f"no Ray cluster at {address}: {error}; check the address, or pass --address local to "
            "run one on this machine"
        ) from None


def find_crew(nodes: list[dict[str, Any]], options: ExtractOptions) -> Crew:
    """Share a cluster out to workers.

    By default each GPU gets a worker; without GPUs, each machine. Each gets as many cores as all
    of them can have.

    Raises
    ------
    DeviceError
        If the cluster is too small for what is asked.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    total = sum(node.get("GPU", 0.0) for node in alive)
    gpus = options.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if total and options.device.startswith(("auto", "cuda")) else 0.0

    def fit(node: dict[str, float], cpus: int) -> int:
        """Workers of so many cores that one machine can run."""
        by_cpu = int(node.get("CPU", 0) // cpus)
        return min(by_cpu, int(node.get("GPU", 0) / gpus)) if gpus else by_cpu

    most = sum(fit(node, 1) for node in alive)
    workers = options.workers or (most if gpus else sum(1 for node in alive if fit(node, 1)))
    if not 0 < workers <= most:
        raise DeviceError(
            f"the cluster has room for {most} workers of a core and {gpus:g} GPUs each "
            f"({len(alive)} machines, {total:g} GPUs), and {workers or 1} are wanted; pass fewer "
            "--workers or another --gpus-per-worker, or add machines"
        )
    cpus = max(int(node.get("CPU", 0)) for node in alive)
    while sum(fit(node, cpus) for node in alive) < workers:
        cpus -= 1
    return Crew(workers, cpus, gpus)


def plan_on(
    crew: Crew,
    *,
    device: str,
    precision: str,
    batch_size: int | str,
    compile: str,
    threads: int | None,
) -> RuntimePlan:
    """Decide the plan where the workers run, which may be other machines than this one.

    Raises
    ------
    DeviceError
        If the device or precision asked for is not there.
    ExtractError
        If no worker can start.
    """
    plan: RuntimePlan = result(
        crew.remote(plan_runtime).remote(
            device=device,
            precision=precision,
            batch_size=batch_size,
            compile=compile,
            threads=threads or crew.cpus,
        ),
        crew,
    )
    return plan


def result(reference: object, crew: Crew, seconds: float | None = _START_SECONDS) -> Any:
    """Wait for a task and turn what it raised into one line."""
    ray = load_ray()
    try:
        return ray.get(reference, timeout=seconds)
    except ray.exceptions.GetTimeoutError:
        raise ExtractError(
            f"no worker with {crew.cpus} cores and {crew.gpus:g} GPUs has answered within "
            f"{seconds:.0f} s; see `ray status`"
        ) from None
    except ray.exceptions.RayError as error:
        raise as_one_line(error) from None


def as_one_line(error: BaseException) -> FeatxError:
    """Reduce a Ray error to one line."""
    cause = getattr(error, "cause", None) or error.__cause__ or error
    if isinstance(cause, FeatxError):
        return cause
    if isinstance(cause, ModuleNotFoundError) or "No module named 'featx" in str(error):
        return ExtractError("the workers cannot import featx; install the same version there")
    return ExtractError(f"a worker failed: {brief(cause, 300)}; what is done is kept")
