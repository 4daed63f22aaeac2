"""What the OpenAPI description says beside what FastAPI finds out itself."""

from __future__ import annotations

STATUSES = {
    400: "the body is damaged, or holds no picture",
    401: "the token is missing or wrong",
    408: "the body came too slowly",
    413: "too large, or too many pictures",
    415: "neither a multipart form nor JSON",
    503: "too much waits; see Retry-After",
}
"""Why a request is refused."""

BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "files": {"type": "array", "items": {"type": "string", "format": "binary"}}
                },
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["images"],
                "properties": {
                    "images": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["data"],
                            "properties": {
                                "name": {"type": "string"},
                                "data": {"type": "string", "format": "byte"},
                            },
                        },
                    }
                },
            }
        },
    },
}
"""Of a request to predict; FastAPI cannot know it, as the body is read while it comes."""
