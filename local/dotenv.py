"""`make env`: write .env from .env.example, with new secrets. Needs only Python's standard library."""

from __future__ import annotations

import os
import re
import secrets
import sys
from base64 import urlsafe_b64encode
from pathlib import Path


def filled(example: str) -> str:
    """The example with each placeholder <...> replaced by a new secret; the same one for equal placeholders."""
    values = {
        "<key>": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "<password>": secrets.token_hex(16),
        "<token>": secrets.token_urlsafe(32),
    }

    def fill_line(line: re.Match[str]) -> str:
        return re.sub("<.*?>", lambda placeholder: values[placeholder[0]], line[0])

    return re.sub("^(?!#).*$", fill_line, example, flags=re.M)


def main() -> int:
    """Write .env unless it exists; returns the exit status."""
    root = Path(__file__).parent.parent
    try:
        descriptor = os.open(root / ".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
    except FileExistsError:
        print(".env exists already, and its secrets may be in use. Remove it first to get new ones.", file=sys.stderr)
        return 1
    with os.fdopen(descriptor, "w") as file:
        file.write(filled((root / ".env.example").read_text()))
    print("Wrote .env with new secrets for this machine; git ignores it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
