"""Become a command whose environment holds what is in secret files.

`{secret:redis_password}` in an environment variable stands for the content of the file
/run/secrets/redis_password. So passwords are in no image and no YAML, and `docker inspect` does not
show them. Inside an address they are percent-encoded.

    PREFECT_SERVER_DOCKET_URL='redis://:{secret:redis_password}@redis/0' entrypoint.py prefect …

A first word that is no program is one of graft's commands: `entrypoint.py run reviews`.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

SECRET = re.compile(r"\{secret:(\w+)\}")


def resolved(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """The environment with each `{secret:NAME}` replaced by the file of that name.

    Raises:
        OSError: there is no such file, or it may not be read.
    """
    found = {}
    for name, value in environment.items():
        address = "://" in value

        def content(match: re.Match[str], address: bool = address) -> str:
            text = (folder / match[1]).read_text(encoding="utf-8").strip()
            return quote(text, safe="") if address else text

        found[name] = SECRET.sub(content, value)
    return found


def main() -> None:
    """Replace this process by the command."""
    command = sys.argv[1:] or ["graft"]
    if shutil.which(command[0]) is None:
        command = ["graft", *command]
    try:
        environment = resolved(os.environ, Path(os.environ.get("SECRETS", "/run/secrets")))
    except OSError as error:
        sys.exit(f"entrypoint: {error.filename}: {error.strerror}; see docker/README.md, Secrets")
    os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    main()
