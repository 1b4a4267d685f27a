"""What is relied on of QEMU, of the one that is installed: tried on images, without a guest.

A discard that comes while a disk is mirrored (`virsh blockcopy`, a migration with its storage) is dropped: the filter that the job
puts above the disk does not unmap. So what a guest trims meanwhile may not count as trimmed (host/commands/trim_watch.h).
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from typing import Any

MIB = 1 << 20
SKIP = 77
PATIENCE_SECONDS = 30.0


class Monitor:
    """QMP of a storage daemon that listens there."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_SECONDS)
        overdue = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > overdue:
                    raise
                time.sleep(0.02)
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.do("qmp_capabilities")

    def do(self, command: str, **arguments: object) -> Any:
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while "event" in (answer := json.loads(self.file.readline())):
            pass
        return answer["return"]

    def wait_for_jobs(self, states: list[str]) -> None:
        overdue = time.monotonic() + PATIENCE_SECONDS
        while [job["status"] for job in self.do("query-jobs")] != states:
            if time.monotonic() > overdue:
                raise TimeoutError(f"the jobs are not {states}: {self.do('query-jobs')}")
            time.sleep(0.02)


class MirroredDisk(unittest.TestCase):
    def setUp(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="vr-qemu."))
        self.addCleanup(shutil.rmtree, self.place)
        self.image = self.place / "image"
        self.image.write_bytes(b"\x55" * (16 * MIB))
        with open(self.place / "copy", "wb") as file:
            file.truncate(16 * MIB)
        self.daemon = subprocess.Popen([
            "qemu-storage-daemon", "--blockdev", f"file,node-name=disk,filename={self.image},discard=unmap",
            "--blockdev", f"file,node-name=copy,filename={self.place}/copy,discard=unmap",
            "--chardev", f"socket,id=monitor,path={self.place}/qmp,server=on,wait=off", "--monitor", "monitor",
            "--nbd-server", f"addr.type=unix,addr.path={self.place}/nbd", "--export", "nbd,id=e,node-name=disk,name=disk,writable=on",
        ])
        self.addCleanup(self.daemon.wait)
        self.addCleanup(self.daemon.kill)
        self.monitor = Monitor(self.place / "qmp")
        self.addCleanup(self.monitor.socket.close)
        self.addCleanup(self.monitor.file.close)

    def freed_by_a_discard(self, offset: int) -> int:
        """Bytes that come back of 4 MiB."""
        before = self.image.stat().st_blocks
        subprocess.run(
            ["qemu-io", "-f", "raw", "-d", "unmap", "-c", f"discard {offset} 4M", f"nbd+unix:///disk?socket={self.place}/nbd"],
            check=True, stdout=subprocess.DEVNULL,
        )
        return (before - self.image.stat().st_blocks) * 512

    def test_drops_what_is_discarded(self) -> None:
        self.assertEqual(self.freed_by_a_discard(0), 4 * MIB)
        self.monitor.do("blockdev-mirror", **{"job-id": "mirror", "device": "disk", "target": "copy", "sync": "none"})
        self.monitor.wait_for_jobs(["ready"])
        self.assertEqual(self.freed_by_a_discard(4 * MIB), 0)
        self.monitor.do("block-job-cancel", device="mirror", force=True)
        self.monitor.wait_for_jobs([])
        self.assertEqual(self.freed_by_a_discard(8 * MIB), 4 * MIB)


if __name__ == "__main__":
    if not (shutil.which("qemu-storage-daemon") and shutil.which("qemu-io")):
        print("SKIP: needs qemu-storage-daemon and qemu-io", file=sys.stderr)
        sys.exit(SKIP)
    unittest.main(verbosity=2)
