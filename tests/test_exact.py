"""True float32 whichever of torch's two precision APIs the caller has used."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

CASES = {
    "nothing": "pass",
    "older": "b.cuda.matmul.allow_tf32 = True; b.cudnn.allow_tf32 = True",
    "older, one value": "torch.set_float32_matmul_precision('high')",
    "older, bf16 on CPUs": "torch.set_float32_matmul_precision('medium')",
    "newer": "b.cuda.matmul.fp32_precision = 'tf32'; b.cudnn.conv.fp32_precision = 'tf32'",
    "newer, for all": "b.fp32_precision = 'tf32'",
}
SCRIPT = """
import torch
from featx.runtime.exact import _switches, true_fp32
b = torch.backends
{setting}
before = [s.fp32_precision for s in _switches()]
with true_fp32(), true_fp32():
    print({{s.fp32_precision for s in _switches()}})
print([s.fp32_precision for s in _switches()] == before)
"""


@pytest.mark.parametrize("setting", CASES.values(), ids=CASES)
def test_products_are_float32_inside_and_as_the_caller_set_them_after(setting: str) -> None:
    code = SCRIPT.format(setting=setting)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["{'ieee'}", "True"], done.stderr


def test_threads_that_come_and_go_leave_what_was_there() -> None:
    from featx.runtime.exact import _switches, true_fp32

    before, seen = [s.fp32_precision for s in _switches()], set()

    def work() -> None:
        for _ in range(200):
            with true_fp32():
                seen.update(s.fp32_precision for s in _switches())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == {"ieee"}
    assert [s.fp32_precision for s in _switches()] == before
