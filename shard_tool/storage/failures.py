"""Tells failures of storage apart by the answers behind them.

Storage libraries share no base class of errors, so the HTTP status or the code of the answer
decides. Messages never show a library's text that may hold a URL, since URLs may hold signatures.
"""

from __future__ import annotations

_FINAL = {"ValueError", "InvalidURL", "ParamValidationError", "ProfileNotFound", "NoRegionError"}
"""Names of client library errors that mean a wrong URL or option."""
_SPOILED_IN_TRANSIT = {
    "RequestTimeout",
    "BadDigest",
    "IncompleteBody",
    "InvalidDigest",
    "XAmzContentSHA256Mismatch",
}
"""Codes that blame the request although the network corrupted it."""


def answer_of(exc: BaseException) -> tuple[int, str]:
    """Return HTTP status and code of the answer behind an error; (0, "") if there is none."""
    answer = getattr(exc.__cause__, "response", None)  # botocore's, behind s3fs's OSError
    if answer:
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return status, str(answer.get("Error", {}).get("Code", status))
    status = getattr(exc, "status", 0)  # aiohttp's
    return status, str(status or "")


def cause_of(exc: BaseException) -> str:
    """Describe an error in a few words, without URLs and headers."""
    name, (_, code) = type(exc).__name__, answer_of(exc)
    if code:
        return f"{name}: {code}"
    is_told = isinstance(exc, OSError) or name in _FINAL
    text = str(exc) if is_told and exc.__cause__ is None else ""
    return f"{name}: {text}" if text and "://" not in text and len(text) < 200 else name


def shown_cause(exc: BaseException) -> BaseException | None:
    """Return the error, or None if it shows a full URL, with its password or signature."""
    chain = [exc, exc.__cause__, exc.__context__]
    return None if any("://" in str(error) for error in chain) else exc


def is_refusal(exc: Exception) -> bool:
    """Tell whether access was refused."""
    status, code = answer_of(exc)
    is_refused = status in (401, 403) or "Token" in code
    return is_refused or isinstance(exc, PermissionError) or "Credential" in type(exc).__name__


def is_final(exc: Exception) -> bool:
    """Tell whether another attempt cannot help."""
    status, code = answer_of(exc)
    is_wrong_request = status == 501 or (400 <= status < 500 and status not in (408, 409, 425, 429))
    return type(exc).__name__ in _FINAL or (is_wrong_request and code not in _SPOILED_IN_TRANSIT)
