"""Commands without the wait for their imports: a process that has imported torch forks for each.

Importing torch and lightning takes longer than most commands of the tests. This server imports them
once. For each command it forks a child that runs the script as `python <script>` would: own working
folder, environment, arguments, standard streams and exit code. Nothing of `stealing` is imported
before the fork, so that its modules read the environment of the command.

Run as `python tests/forked.py <socket>`. It ends when its standard input closes.
"""

import json
import os
import runpy
import select
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any


def _preload() -> None:
    """Import what the commands import, but for the project itself, and pyarrow: it has a thread."""
    import hydra  # noqa: F401
    import lightning.pytorch  # noqa: F401
    import scipy.optimize  # noqa: F401
    import torch
    import torchmetrics  # noqa: F401
    import torchvision.models  # noqa: F401

    # A forked child cannot use threads that its parent started.
    torch.set_num_threads(1)
    assert len(os.listdir("/proc/self/task")) == 1, "a thread of the server would be lost in a fork"


def _execute(request: dict[str, Any]) -> int:
    """Run a script in this process, whose streams, folder and environment become the request's.

    Returns:
        the exit code that an interpreter of its own would have.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY
        os.dup2(os.open(request[name], flags), number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    script, *arguments = request["line"]
    as_module = script == "-m"
    if as_module:
        script, *arguments = arguments
    sys.argv = [script, *arguments]
    # As the interpreter does it: the folder of a script, or the working folder of a module.
    sys.path[0] = request["cwd"] if as_module else os.path.dirname(os.path.abspath(script))
    sys.stdin = os.fdopen(0, "r", closefd=False)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    try:
        if as_module:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _answer(connection: socket.socket) -> None:
    """Run the command that a connection asks for in a child, and send back its exit code."""
    with connection, connection.makefile("rw") as stream:
        request = json.loads(stream.readline())
        child = os.fork()
        if child == 0:
            code = _execute(request)
            sys.stdout.flush()
            sys.stderr.flush()
            _run_exit_functions()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        stream.write(f"{os.waitstatus_to_exitcode(status)}\n")


def _run_exit_functions() -> None:
    """Do what the interpreter does at its end: a progress bar or logger may flush there."""
    import atexit
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()


def serve(path: str) -> None:
    """Answer requests until the standard input closes."""
    _preload()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in readable:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _answer(connection)
            os._exit(0)
        connection.close()
        _reap()


def _reap() -> None:
    """Forget the children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


class Forks:
    """The server of one worker of the tests, started at its first command."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.folder = tempfile.TemporaryDirectory()

    def run(
        self, line: list[str], cwd: Path, env: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run `python *line`, as `subprocess.run(..., capture_output=True, text=True)` would."""
        path = Path(self.folder.name, "socket")
        if self.process is None:
            self.process = self._start(path)
        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as connection:
            out, err = Path(folder, "out"), Path(folder, "err")
            out.touch()
            err.touch()
            request = {
                "line": line,
                "cwd": str(cwd),
                "env": env,
                "stdin": os.devnull,
                "stdout": str(out),
                "stderr": str(err),
            }
            connection.connect(str(path))
            with connection.makefile("rw") as stream:
                stream.write(json.dumps(request) + "\n")
                stream.flush()
                code = int(stream.readline())
            return subprocess.CompletedProcess(line, code, out.read_text(), err.read_text())

    def _start(self, path: Path) -> subprocess.Popen[str]:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        process = subprocess.Popen(
            [sys.executable, __file__, str(path)],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process


if __name__ == "__main__":
    serve(sys.argv[1])
