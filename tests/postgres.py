"""A real PostgreSQL server in a folder of its own, reached by a socket in it, gone when the tests
are."""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def _program(name: str) -> str | None:
    found = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))]
    return shutil.which(name) or (found[-1] if found else None)


def why_not() -> str | None:
    """Why no server can be started here, or None."""
    if _program("initdb") is None or _program("postgres") is None:
        return "PostgreSQL's server is not installed here (Debian: postgresql)"
    return None


@contextmanager
def server() -> Iterator[str]:
    """Its URL, without a database's name: `database(url)` makes one."""
    folder = Path(
        tempfile.mkdtemp(prefix="pg")
    )  # a short path: a socket's is limited to 107 letters
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "cwd": folder,
    }
    if os.geteuid() == 0:  # as whom it refuses to run
        shutil.chown(folder, "postgres")
        quiet["user"] = "postgres"
    data, initdb, postgres = str(folder / "data"), _program("initdb"), _program("postgres")
    assert initdb and postgres
    subprocess.run(
        [initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8"], check=True, **quiet
    )
    process = subprocess.Popen(
        [postgres, "-D", data, "-k", str(folder), "-c", "listen_addresses="], **quiet
    )
    try:
        yield f"postgresql://postgres@/{{}}?host={folder}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        shutil.rmtree(folder)


def database(url: str) -> str:
    """A new empty database of the server."""
    import psycopg
    import stamina

    name = f"t{uuid.uuid4().hex[:12]}"
    for attempt in stamina.retry_context(
        on=psycopg.OperationalError, attempts=50, wait_initial=0.1, wait_max=0.3
    ):
        with attempt, psycopg.connect(url.format("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
    return url.format(name)
