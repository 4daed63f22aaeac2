"""True float32 whichever of torch's two precision APIs the caller has used."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

OLDER = {
    "nothing": "pass",
    "older": "b.cuda.matmul.allow_tf32 = True; b.cudnn.allow_tf32 = True",
    "older, one value": "torch.set_float32_matmul_precision('high')",
    "older, bf16 on CPUs": "torch.set_float32_matmul_precision('medium')",
}
NEWER = {
    "newer": "b.cuda.matmul.fp32_precision = 'tf32'; b.cudnn.conv.fp32_precision = 'tf32'",
    "newer, for all": "b.fp32_precision = 'tf32'",
}
SCRIPT = """
import torch, warnings
warnings.simplefilter("ignore")
from featx.runtime.forward import _CUDNN, _MATMUL, true_fp32
b, switches = torch.backends, (*_MATMUL.switches, *_CUDNN.switches)
read = lambda: [s.fp32_precision for s in switches]
{setting}
before = read()
with true_fp32(), true_fp32(on_card=False):
    print(set(read()) <= {{"ieee", "none"}})
    {inside}
print(read() == before)
{after}
"""
READ_OLDER = (
    "assert torch.get_float32_matmul_precision() == 'highest';"
    "assert not b.cudnn.allow_tf32; assert not b.cuda.matmul.allow_tf32"
)


def says(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(code, id=name, marks=pytest.mark.slow if "one value" in name else ())
        for name, code in OLDER.items()
        if name != "older"
    ]
    + [pytest.param(OLDER["older"], id="older", marks=pytest.mark.slow)],
)
def test_products_are_float32_inside_and_torchs_compiler_can_ask_by_the_older_api(
    setting: str,
) -> None:
    after = "torch.get_float32_matmul_precision(), b.cudnn.allow_tf32, b.cuda.matmul.allow_tf32"
    code = SCRIPT.format(setting=setting, inside=READ_OLDER, after=after)
    assert says(code) == ["True", "True"]


@pytest.mark.parametrize("setting", NEWER.values(), ids=NEWER)
def test_products_are_float32_inside_and_as_the_caller_set_them_after(setting: str) -> None:
    assert says(SCRIPT.format(setting=setting, inside="pass", after="pass")) == ["True", "True"]


def test_threads_that_come_and_go_leave_what_was_there() -> None:
    from featx.runtime.forward import _CUDNN, true_fp32

    before, seen = [s.fp32_precision for s in _CUDNN.switches], set()

    def work() -> None:
        for _ in range(200):
            with true_fp32():
                seen.update(s.fp32_precision for s in _CUDNN.switches)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert seen == {"ieee"}
    assert [s.fp32_precision for s in _CUDNN.switches] == before
