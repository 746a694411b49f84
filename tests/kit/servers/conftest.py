"""An HTTP server with one object, and a fault proxy in front of it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from tests.kit.servers.fault_proxy import FaultProxy, fault_proxy
from tests.kit.servers.range_store import StoreServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def store() -> Iterator[StoreServer]:
    with StoreServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(store: StoreServer) -> Iterator[FaultProxy]:
    with fault_proxy(store.url) as proxy:
        yield proxy
