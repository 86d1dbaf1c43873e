"""`make env`: .env out of .env.example, with new secrets. Needs nothing but Python."""

from __future__ import annotations

import os
import re
import secrets
import sys
from base64 import urlsafe_b64encode
from pathlib import Path


def filled(example: str) -> str:
    """The example with a new secret for each <name> in it, the same wherever that name stands."""
    made = {
        "<key>": urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "<password>": secrets.token_hex(16),
        "<token>": secrets.token_urlsafe(32),
    }
    return re.sub("^(?!#).*$", lambda line: re.sub("<.*?>", lambda name: made[name[0]], line[0]), example, flags=re.M)


def main() -> int:
    root = Path(__file__).parent.parent
    try:
        descriptor = os.open(root / ".env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
    except FileExistsError:
        print(".env is there already, and its secrets may be in use. For new ones remove it first.", file=sys.stderr)
        return 1
    with os.fdopen(descriptor, "w") as file:
        file.write(filled((root / ".env.example").read_text()))
    print(".env holds new secrets, for this machine only; it is not committed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
