"""What errors mean to a download; `voc/test_download*.py` test the requests."""

from __future__ import annotations

import ssl
from urllib.error import URLError

from shard_tool.sources.files.http_range import RefusedError, _error_of


def test_a_server_whose_certificate_fails_to_verify_is_not_asked_twice() -> None:
    refused = ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed")
    error = _error_of(URLError(refused), timeout_s=1)
    assert isinstance(error, RefusedError)
    assert str(error) == "certificate verify failed: self-signed"
