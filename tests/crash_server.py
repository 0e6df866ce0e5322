"""Commands in the fork server, where every file operation is counted, and one ended or failed (`file_operations.c`)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from workflow_fixtures import REPOSITORY, Workspace, environment

SOURCE = REPOSITORY / "tests" / "file_operations.c"
SERVER = REPOSITORY / "tests" / "fork_server.py"
IN_MEMORY = Path("/dev/shm")
ROOM_BYTES = 1 << 29


class Lost(AssertionError):
    """A state from which the same command did not come back to the same bytes."""


@dataclass
class Server:
    """The fork server, watched by the compiled interposer."""

    process: subprocess.Popen[str]
    scratch: Path

    def run(self, workspace: Workspace, arguments: Sequence[str], how: str = "k", at: int = 0) -> tuple[int, str]:
        """Exit status (negative: a signal) and words of one command; the trace lies in `scratch` afterwards."""
        command, *rest = arguments
        source = [] if command in ("freeze", "download") else ["--config", str(workspace.config_file)]
        request = {
            "folder": str(workspace.folder),
            "arguments": [command, *source, *rest],
            "how": how,
            "at": at,
            "trace": str(self.scratch / "trace"),
            "lost": str(self.scratch / "lost"),
        }
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        except (OSError, ValueError):
            raise Lost(f"caloforge {' '.join(arguments)}: the fork server ended before it") from None
        return answer["status"], answer["words"]

    def end(self) -> None:
        """Kill the server and whatever runs in it; returns when all of that is dead, since each holds the pipe open."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        assert self.process.stdout is not None
        self.process.stdout.read()
        self.process.wait()

    def trace(self) -> list[tuple[str, str]]:
        """Kind and path of each operation of the last command."""
        lines = (self.scratch / "trace").read_text().splitlines()
        return [(kind, path) for _, kind, path in (line.split(" ", 2) for line in lines)]


@contextmanager
def server() -> Iterator[Server]:
    """A running fork server; RuntimeError where there is no C compiler, or preloading does not work."""
    with tempfile.TemporaryDirectory(prefix="crashes-") as folder:
        scratch = Path(folder).resolve()
        library = scratch / "file_operations.so"
        compiler = next((c for c in ("cc", "gcc", "clang") if shutil.which(c)), None)
        if compiler is None or sys.platform != "linux":
            raise RuntimeError("expected Linux with a C compiler (cc), found none; install gcc")
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
        subprocess.run(command, check=True)
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        process = subprocess.Popen(
            [sys.executable, str(SERVER), str(scratch / "words")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment(), **single, "LD_PRELOAD": str(library), "MPLBACKEND": "agg"},
            text=True,
            start_new_session=True,  # an interrupt reaches the one who started it, who ends it
        )
        running = Server(process, scratch)
        try:
            assert process.stdout is not None and process.stdout.readline().strip() == "ready"
            yield running
        except BaseException:
            running.end()
            raise
        finally:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()


def undisturbed(running: Server, workspace: Workspace, arguments: Sequence[str]) -> None:
    """Run a command to its end; `Lost` when it fails."""
    status, words = running.run(workspace, arguments)
    if status:
        raise Lost(f"caloforge {' '.join(arguments)}: ended with {status}: {words[-2000:]}")


def in_memory() -> str | None:
    """Where a workspace costs no waiting for a disk: no process outlives the machine here; None: nowhere."""
    fine = IN_MEMORY.is_dir() and os.access(IN_MEMORY, os.W_OK)
    return str(IN_MEMORY) if fine and shutil.disk_usage(IN_MEMORY).free > ROOM_BYTES else None
