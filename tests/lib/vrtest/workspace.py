"""A temporary directory that disappears, with every QEMU started in it, however the program ends.

An orderly end, an exception, Ctrl-C and SIGTERM are dealt with here. For SIGKILL (a test runner's time limit, the OOM
killer) there is a second process, the reaper, that holds the other end of a pipe and does the same when it closes.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

FALLOC_KEEP_SIZE_PUNCH_HOLE = 0x03


class Interrupted(SystemExit):
    """SIGINT, SIGTERM or SIGHUP, turned into an exception so that every 'finally' runs."""


def _raise_interrupted(number: int, _frame: FrameType | None) -> None:
    # A second signal during the clean-up would leave things behind; it is short.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(128 + number)


def qemu_processes(directory: Path) -> list[int]:
    """QEMUs whose command line names the directory. It is ours alone, so they are too."""
    return _processes(directory, b"qemu-")


def _processes(directory: Path, *programs: bytes) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        program = os.path.basename(command.split(b"\0", 1)[0])
        if program.startswith(programs) and os.fsencode(directory) + b"/" in command:
            found.append(int(entry.name))
    return found


def remove_all(directory: Path) -> None:
    def left() -> list[int]:
        return _processes(directory, b"libvirtd", b"qemu-")

    for number in (signal.SIGTERM, signal.SIGKILL):
        pids = left()
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        deadline = time.monotonic() + 5
        while pids and time.monotonic() < deadline and left():
            time.sleep(0.02)
    for mount_point in _mounts_below(directory):
        subprocess.run(["umount", "--lazy", mount_point], check=False)
    shutil.rmtree(directory, ignore_errors=True)


def _mounts_below(directory: Path) -> list[str]:
    """The last one first."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    points = [line.split(" ")[4].replace("\\040", " ") for line in lines]
    return [point for point in reversed(points) if point.startswith(f"{directory}/")]


class Workspace:
    """`with Workspace() as space:`; space.path is the directory. Make it in the main thread: it sets signal handlers."""

    def __init__(self, parent: str | None = None) -> None:
        # Short and not below /tmp, often a tmpfs: libvirt puts sockets in it (108 bytes of path), we put disks in it.
        # mkdtemp makes it 0700: images hold what guests wrote.
        self.path = Path(tempfile.mkdtemp(prefix="vr-", dir=parent or os.environ.get("TMPDIR") or "/var/tmp"))
        self._callbacks: list[Callable[[], None]] = []
        self._kept = False
        self._reaper = self._start_reaper()
        atexit.register(self.close)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _raise_interrupted)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def before_close(self, callback: Callable[[], None]) -> None:
        """Called before the directory goes, the last one registered first; its failure stops nothing."""
        self._callbacks.append(callback)

    def keep(self) -> None:
        """Leaves the directory and its guests to the user."""
        atexit.unregister(self.close)
        self._kept = True
        self._dismiss_reaper()

    def close(self) -> None:
        if self._kept:
            return
        atexit.unregister(self.close)
        while self._callbacks:
            try:
                self._callbacks.pop()()
            except Exception as problem:  # noqa: BLE001 - the rest of the clean-up matters more
                print(f"clean-up: {problem}", file=sys.stderr)
        remove_all(self.path)
        self._dismiss_reaper()

    def _start_reaper(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", Path(__file__).with_name("reaper.py"), self.path],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )

    def _dismiss_reaper(self) -> None:
        pipe = self._reaper.stdin
        if pipe is None or pipe.closed:
            return
        try:
            pipe.write(b"dismissed")
            pipe.close()
        except BrokenPipeError:
            pass
        self._reaper.wait()


def supports_holes(directory: Path) -> bool:
    """Whether files in the directory can give blocks back: without that, no trim frees anything."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with tempfile.TemporaryFile(dir=directory) as file:
        file.write(b"x" * (1 << 20))
        file.flush()
        os.fsync(file.fileno())
        before = os.fstat(file.fileno()).st_blocks
        offset, length = ctypes.c_long(0), ctypes.c_long(1 << 20)
        if libc.fallocate(file.fileno(), FALLOC_KEEP_SIZE_PUNCH_HOLE, offset, length) != 0:
            return False
        return os.fstat(file.fileno()).st_blocks < before
