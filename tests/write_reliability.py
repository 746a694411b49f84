"""Run the fault tests and write what became of each fault into docs/reliability.md.

Usage: python -m tests.write_reliability
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ["RELIABILITY"] = "write"
    sys.exit(
        pytest.main([str(Path(__file__).with_name("datamodules") / "reading/test_faults.py"), "-q"])
    )
