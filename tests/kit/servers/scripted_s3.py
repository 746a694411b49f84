"""S3 calls whose answers a test scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shard_tool.storage import retry


@dataclass
class Between:
    """Stands between uploads and S3, and answers a call of a method as its script says."""

    method: str
    script: list[Any]
    """Of each call: None to pass it on; an answer, or an error, to give when it was done."""
    is_done: bool = True
    """False: what the script answers is not asked of S3 at all."""
    num_calls: int = 0

    async def call(self, fs: Any, method: str, *rest: Any) -> Any:
        is_meant = method == self.method
        self.num_calls += is_meant
        scripted = self.script.pop(0) if is_meant and self.script else None
        answer = None
        if scripted is None or self.is_done:
            answer = await retry.call_s3(fs, method, *rest)
        if isinstance(scripted, Exception):
            raise scripted
        return scripted or answer


def refused(code: str) -> OSError:
    """An error as s3fs makes one of what a store answered."""
    error, refusal = OSError("refused"), Exception()
    refusal.response = {  # type: ignore[attr-defined]
        "Error": {"Code": code},
        "ResponseMetadata": {"HTTPStatusCode": 404},
    }
    error.__cause__ = refusal
    return error
