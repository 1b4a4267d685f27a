"""A guest that is a whole Debian: it boots by grub from its own disk, and systemd and udev start the agent."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .guest import AGENT_PORT, MIB, OLD_MACHINE, QEMU_GA_PORT, Disk, Guest
from .host import Host
from .image import run_tool

MAKE_DEBIAN_GUEST = Path(__file__).resolve().parents[3] / "scripts" / "make-debian-guest"

ROOT_PARTITION_START = 1 * MIB

# DebianGuest.agent_unit() of an agent that `agent install` has put there.
INSTALLED_UNIT = {"SubState": "running", "FragmentPath": "/etc/systemd/system/virt-reclaim-agent.service"}

REMOVE_AGENT = """
set -e
systemctl stop virt-reclaim-agent.service virt-reclaim-agent-worker.socket
rm /usr/sbin/virt-reclaim-agent
find /etc/systemd/system /usr/lib/systemd/system /etc/udev/rules.d /usr/lib/udev/rules.d -name '*virt-reclaim-agent*' -delete
systemctl daemon-reload
udevadm control --reload
"""


@dataclass
class RootDisk(Disk):
    """The disk with the system: a partition with the root filesystem, another one for swap. Its size is make-debian-guest's."""

    name: str = "root"
    start: int = ROOT_PARTITION_START

    @property
    def mount_point(self) -> str:
        return "/"


class DebianGuest(Guest):
    """As Guest, with the root disk as first of its disks. Further disks are mounted at /mnt/NAME."""

    def __init__(
        self,
        host: Host,
        name: str,
        *,
        root: RootDisk | None = None,
        disks: Sequence[Disk] = (),
        machine: str = OLD_MACHINE,
        agent: Path | None = None,
        by_path: bool = False,  # fstab and grub name /dev/vda1
        resume: bool = False,  # a swap, and resume= for it
        initramfs: str = "most",  # or 'virtio-blk-only'
        vcpus: int = 1,  # a second one costs a sixth more of this machine's: emulated, they wait for each other's locks
        memory_mib: int = 768,
    ) -> None:
        self.root = root or RootDisk()
        options = [f"--initramfs={initramfs}", *(["--by-path"] if by_path else []), *(["--resume"] if resume else [])]
        for disk in disks:
            options += ["--fstab", f"LABEL={disk.name} {disk.mount_point} {disk.fs} nofail 0 0"]
        super().__init__(
            host, name, disks=[self.root, *disks], machine=machine, agent=agent, guest_options=tuple(options),
            ports=(AGENT_PORT, QEMU_GA_PORT), vcpus=vcpus, memory_mib=memory_mib,
        )

    def agent_unit(self) -> dict[str, str]:
        """The state of the agent's unit, and the file it is from."""
        shown = self.run(f"systemctl show -p {','.join(INSTALLED_UNIT)} virt-reclaim-agent.service").output
        return dict(line.split("=", 1) for line in shown.splitlines())

    def remove_agent(self) -> None:
        """With its units and rule, wherever make-debian-guest or `agent install` has put them."""
        self.run(REMOVE_AGENT)

    def agent_log(self) -> str:
        return self.run("journalctl --no-pager -b -u virt-reclaim-agent.service; systemctl --failed --no-pager").output

    def _make_boot(self, agent: Path | None, guest_options: tuple[str, ...], cmdline: str) -> str:
        # The kernel's command line is grub's business.
        del cmdline
        self._image_options = [*guest_options, *(["--agent", str(agent)] if agent else [])]
        return "    <boot dev='hd'/>\n"

    def _make_disk(self, disk: Disk) -> None:
        if disk is not self.root:
            super()._make_disk(disk)
            return
        raw = disk.path if disk.format == "raw" else disk.path.with_suffix(".making")
        done = subprocess.run(
            [MAKE_DEBIAN_GUEST, *self._image_options, "--output", raw], capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip())
        disk.size = raw.stat().st_size
        if raw != disk.path:
            run_tool("qemu-img", "convert", "-f", "raw", "-O", disk.format, raw, disk.path)
            raw.unlink()
