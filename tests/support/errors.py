# SPDX-License-Identifier: Apache-2.0
"""The error table of the product, read from its own source, and what an error answer must look like."""
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_ROW = re.compile(r'^ERR\((ERR_\w+),\s*"(\w+)",\s*(\d+),\s*"(\w*)",\s*(-?\d+),\s*"', re.M)
TABLE = {code: (int(http), kind, int(retry))
         for _, code, http, kind, retry in _ROW.findall((ROOT / "common" / "err.def").read_text())}


def check_openai(answer, code, param=None, status=None, has_id=True):
    """An OpenAI error object with the row of err.def that has this code (or one of these). has_id: false for
    what the HTTP library below refuses before it is a request of ours."""
    codes = (code,) if isinstance(code, str) else code
    assert answer.header("content-type", "").startswith("application/json"), answer
    body = answer.json()
    assert set(body) == {"error"}, body
    error = body["error"]
    assert {"message", "type", "param", "code"} <= set(error), error
    assert error["code"] in codes, f"{error}, expected {codes}"
    http, kind, retry = TABLE[error["code"]]
    assert answer.status == (status or http), answer
    assert error["type"] == kind, error
    assert isinstance(error["message"], str) and error["message"], error
    if param is not None:
        assert error["param"] == param, error
    if answer.status in (429, 503) and retry >= 0:
        assert answer.header("retry-after") is not None, f"no Retry-After: {answer}"
        assert int(answer.header("retry-after")) >= 0
    assert answer.header("x-request-id") or not has_id, answer
    return error


def check_problem(answer, code, status=None):
    """RFC 9457."""
    assert answer.header("content-type", "").startswith("application/problem+json"), answer
    body = answer.json()
    assert body["code"] == code, body
    assert answer.status == (status or TABLE[code][0]), answer
    assert body["status"] == answer.status, body
    assert body["title"], body
    if answer.status in (429, 503):
        assert answer.header("retry-after") is not None, answer
    return body


def check_anthropic(answer, status):
    body = answer.json()
    assert answer.status == status, answer
    assert body["type"] == "error", body
    assert {"type", "message"} <= set(body["error"]), body
    return body["error"]
