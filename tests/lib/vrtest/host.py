"""Hypervisors of one's own, their whole state in one directory.

EmbedHost is libvirt's QEMU driver inside each program that opens it. Only one process at a time can have it open, so
callers run virsh and virt-reclaim one after the other. Guests go on running in between.
https://libvirt.org/drvqemu.html, 'embedded'. daemon.py has the other kind, a libvirtd.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from urllib.parse import quote

from .waiting import TimedOut

# Without a file as stdio handler QEMU's output goes to virtlogd, which does not run. The rest asks for what a
# container or a build machine does not have.
QEMU_CONF = """\
stdio_handler = "file"
security_driver = "none"
namespaces = []
cgroup_controllers = []
user = "root"
group = "root"
"""


class DomainProblem(Exception):
    """virsh failed; the text is its own."""


class Host:
    """What every hypervisor of ours can do; `uri` opens it."""

    def __init__(self, directory: Path, uri: str, capabilities: Path) -> None:
        """capabilities: where libvirt keeps what QEMU told of itself. To ask takes seconds; it knows when it has to again."""
        self.directory = directory
        self.uri = uri
        self._capabilities = capabilities
        capabilities.mkdir(parents=True)
        for known in _known_capabilities(self).glob("*.xml"):
            shutil.copyfile(known, capabilities / known.name)

    def _keep_capabilities(self) -> None:
        directory = _known_capabilities(self)
        directory.mkdir(parents=True, exist_ok=True)
        for found in self._capabilities.glob("*.xml"):
            content, known = found.read_bytes(), directory / found.name
            if not known.exists() or known.read_bytes() != content:
                new = known.with_suffix(f".{os.getpid()}")
                new.write_bytes(content)
                new.rename(known)

    def environment(self) -> dict[str, str]:
        """For every program that opens the URI: libvirt logs to stderr as soon as it is a driver itself, and what
        virt-reclaim keeps (old XML, locks) belongs to this host, not to the machine."""
        return {
            **os.environ,
            "LIBVIRT_LOG_OUTPUTS": f"3:file:{self.directory}/libvirt.log",
            "VIRT_RECLAIM_STATE_DIR": str(self.directory / "state"),
            "VIRT_RECLAIM_RUN_DIR": str(self.directory / "run"),
        }

    def virsh(self, *words: str | Path, check: bool = True, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        # An open that meets a guest in the middle of its power-off may fail without a message; the next one does not.
        for _ in range(5):
            result = subprocess.run(
                ["virsh", "-q", "-c", self.uri, *map(str, words)], env=self.environment(), capture_output=True, text=True,
                timeout=seconds, check=False, stdin=subprocess.DEVNULL,
            )
            if result.returncode == 0 or result.stderr.strip():
                break
            time.sleep(0.2)
        if check and result.returncode != 0:
            raise DomainProblem(f"virsh {' '.join(map(str, words))}: {result.stderr.strip()}")
        return result

    def define(self, xml: str) -> None:
        path = self.directory / "define.xml"
        path.write_text(xml)
        self.virsh("define", path)
        self._keep_capabilities()

    def state(self, domain: str) -> str:
        """'running', 'shut off', 'paused', ..."""
        for _ in range(5):
            result = self.virsh("domstate", domain, check=False)
            if result.returncode == 0 or "failed to get domain" in result.stderr:
                break
            time.sleep(0.2)
        if result.returncode != 0:
            raise DomainProblem(f"virsh domstate {domain}: exit status {result.returncode}: {result.stderr.strip()}")
        return result.stdout.strip()

    def destroy(self, domain: str) -> None:
        # Right after an open, libvirt 9.0 kills QEMU and yet says 'domain is not running': only the state tells.
        self.virsh("destroy", domain, check=False)
        self.wait_for_state(domain, "shut off", seconds=30)

    def wait_for_state(self, domain: str, wanted: str, *, seconds: float) -> None:
        """By one virsh that stays: libvirt needs an open driver for as long as it takes to bury a QEMU whose guest powered
        off. Short looks one after the other see it 'running' for ever."""
        state = ""
        deadline = time.monotonic() + seconds
        with subprocess.Popen(
            # Where it reads commands it makes a directory for their history.
            ["virsh", "-q", "-c", self.uri], env={**self.environment(), "XDG_CACHE_HOME": str(self.directory)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
        ) as virsh:
            assert virsh.stdin and virsh.stdout
            overdue = threading.Timer(seconds + 30, virsh.kill)
            overdue.start()
            try:
                while state != wanted and time.monotonic() < deadline:
                    virsh.stdin.write(f"domstate {domain}\n")
                    # The prompt and the echo of the command come first, then one line with the state or an error.
                    lines = iter(virsh.stdout.readline, "")
                    state = next((line.strip() for line in lines if line.strip() and "virsh #" not in line), "")
                    if state != wanted:
                        time.sleep(0.2)
            except BrokenPipeError:
                state = "unknown: virsh ended early"
            finally:
                overdue.cancel()
                _end_virsh(virsh)
        if state != wanted:
            raise TimedOut(f"domain '{domain}' to be '{wanted}': not within {seconds:g} s, it is '{state}'")


class EmbedHost(Host):
    def __init__(self, directory: Path) -> None:
        self.root = directory / "libvirt"
        (self.root / "etc").mkdir(parents=True)
        (self.root / "etc" / "qemu.conf").write_text(QEMU_CONF)
        super().__init__(
            directory, "qemu:///embed?root=" + quote(str(self.root), safe="/"), self.root / "cache" / "qemu" / "capabilities"
        )


def _known_capabilities(host: Host) -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "virt-reclaim" / "capabilities" / type(host).__name__


def _end_virsh(virsh: subprocess.Popen[str]) -> None:
    try:
        # End of input is its 'quit'.
        virsh.communicate(timeout=10)
    except (subprocess.TimeoutExpired, BrokenPipeError):
        virsh.kill()
