"""What an answer means to a download; the requests themselves are tested with `download`."""

from __future__ import annotations

import ssl
from urllib.error import URLError

from shard_tool.sources.http_range import RefusedError, _error_of


def test_a_certificate_that_fails_to_verify_is_not_asked_for_twice() -> None:
    refused = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed")
    error = _error_of(URLError(refused), timeout_s=1)
    assert isinstance(error, RefusedError)
    assert str(error) == "certificate verify failed: self-signed"
