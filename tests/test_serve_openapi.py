"""The description of the API is true: a server is asked as it says, and otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from serving import serving

from featx.serve.app import Service

HOOKS = """
import base64, io
import schemathesis
from hypothesis import strategies as st
from PIL import Image

def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(file, "PNG")
    return file.getvalue()

PICTURES = [png("red"), png("blue"), png("white")]
schemathesis.openapi.format("binary", st.sampled_from(PICTURES))
schemathesis.openapi.format("byte", st.sampled_from([base64.b64encode(p).decode() for p in PICTURES]))
"""  # noqa: E501

# 413 rejects too: more pictures than a request may have.
REJECTED = """
[checks]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 408, 413, 415, 422]
"""


def test_the_description_says_what_is_sent(service: Service) -> None:
    with serving(service) as url:
        paths = httpx.get(f"{url}/openapi.json").json()["paths"]
        metrics = httpx.get(f"{url}/metrics").headers["content-type"]
    found = paths["/v1/training/{row}"]["get"]["responses"]
    assert [*found["200"]["content"]] == ["image/jpeg"]
    assert "404" in found
    assert metrics.split(";")[0] in paths["/metrics"]["get"]["responses"]["200"]["content"]
    predict = paths["/v1/predict"]["post"]
    form = predict["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["files"]
    assert form["properties"]["files"]["minItems"] == 1
    assert predict["security"] == [{}, {"HTTPBearer": []}]
    with serving(replace(service, token="s3cret")) as url:
        paths = httpx.get(f"{url}/openapi.json").json()["paths"]
        assert paths["/v1/predict"]["post"]["security"] == [{"HTTPBearer": []}]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("token", ["", "s3cret"])
def test_schemathesis_finds_nothing(service: Service, token: str, tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(REJECTED)
    with serving(replace(service, token=token)) as url:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
        command += ["--max-examples", "40", "--seed", "1"]
        command += ["-H", f"Authorization: Bearer {token}"] if token else []
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "Tested: 7" in done.stdout
