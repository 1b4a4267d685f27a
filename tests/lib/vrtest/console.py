"""Commands in a guest over its second serial line; the other end is scripts/guest/sbin/vr-shell, which has the protocol."""

from __future__ import annotations

import base64
import itertools
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from .waiting import TimedOut

# What the line adds to the time a script was given, in an emulator on a busy machine.
GRACE_SECONDS = 30.0
HELLO_EVERY_SECONDS = 1.0


class CommandFailed(Exception):
    pass


@dataclass(frozen=True)
class CommandResult:
    status: int
    output: str


class Console:
    """One connection to the line. Not for use by several threads."""

    _ids = itertools.count(1)

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._received = b""

    def close(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket = None
        self._received = b""

    def wait_until_up(self, seconds: float) -> None:
        """Says hello until the guest answers. Much of it waits in the line until its shell runs; an answer to any will do."""
        deadline = time.monotonic() + seconds
        hellos: set[str] = set()
        while time.monotonic() < deadline:
            try:
                hellos.add(self._send("HELLO"))
                self._answer(hellos, HELLO_EVERY_SECONDS)
                return
            except TimedOut:
                pass
            except OSError:
                self.close()
                time.sleep(0.1)
        raise TimedOut(f"the guest's shell did not answer within {seconds:g} s")

    def run(self, script: str, *, seconds: float = 120, check: bool = True) -> CommandResult:
        """Runs a shell script in the guest; its stdout and stderr come back together."""
        encoded = base64.b64encode(script.encode()).decode()
        number = self._send("RUN", f" {max(1, round(seconds))} {encoded}")
        result = self._answer({number}, seconds + GRACE_SECONDS)
        if check and result.status != 0:
            raise CommandFailed(f"in the guest: '{script}' exited with {result.status}: {result.output.strip()}")
        return result

    def _send(self, word: str, arguments: str = "") -> str:
        """The id of the request."""
        number = str(next(self._ids))
        # The empty line first ends whatever half of one lies in the guest's buffer.
        self._connected().sendall(f"\n{word} {number}{arguments}\n".encode())
        return number

    def _answer(self, numbers: set[str], seconds: float) -> CommandResult:
        """To any of these requests."""
        deadline = time.monotonic() + seconds
        while True:
            words = self._read_line(deadline).split(" ")
            if len(words) == 4 and words[0] == "DONE" and words[1] in numbers:
                output = base64.b64decode(words[3]).decode(errors="replace")
                return CommandResult(int(words[2]), output)

    def _read_line(self, deadline: float) -> str:
        line = self._connected()
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimedOut("no answer from the guest's shell")
            line.settimeout(left)
            try:
                data = line.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise ConnectionResetError("the guest's serial line was closed")
            self._received += data
        found, self._received = self._received.split(b"\n", 1)
        return found.decode(errors="replace").rstrip("\r")

    def _connected(self) -> socket.socket:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(5)
            connection.connect(str(self._path))
            self._socket = connection
            self._received = b""
        self._socket.settimeout(10)
        return self._socket
