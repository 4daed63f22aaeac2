"""How fast the forward pass runs: device, precision, batch size, threads, compilation."""

from featx.runtime.machine import cpu_cores
from featx.runtime.plan import RuntimePlan, plan_runtime
from featx.runtime.runner import Runner, enter_worker_thread

__all__ = ["Runner", "RuntimePlan", "cpu_cores", "enter_worker_thread", "plan_runtime"]
