"""What the OpenAPI description says beside what FastAPI finds out itself."""

from __future__ import annotations

from typing import Any

from featx.serve.limits import Limits

STATUSES = {
    400: "the body is damaged, or holds no picture",
    401: "the token is missing or wrong",
    403: "another site asks through a browser",
    408: "the body came too slowly",
    413: "too large, or too many pictures",
    415: "neither a multipart form nor JSON",
    421: "the header Host names another server",
    503: "too much waits; see Retry-After",
}
"""Why a request is refused."""

PICTURE = {
    "description": "a JPEG",
    "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
}
TEXT = {
    "description": "in Prometheus' text format",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


def body(limits: Limits) -> dict[str, Any]:
    """Describe a request to predict; FastAPI cannot know it, as the body is read while it comes."""
    files = {"type": "array", "minItems": 1, "maxItems": limits.files}
    image = {
        "type": "object",
        "required": ["data"],
        "properties": {
            "name": {"type": "string"},
            "data": {"type": "string", "format": "byte", "minLength": 1},
        },
    }
    form = {
        "type": "object",
        "required": ["files"],
        "properties": {"files": {**files, "items": {"type": "string", "format": "binary"}}},
    }
    by_json = {
        "type": "object",
        "required": ["images"],
        "properties": {"images": {**files, "items": image}},
    }
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": by_json},
        },
    }


def describe(schema: dict[str, Any], has_token: bool) -> dict[str, Any]:
    """Say that a server without a token asks for none, and takes any."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            if "security" in operation and not has_token and {} not in operation["security"]:
                operation["security"].insert(0, {})
    return schema
