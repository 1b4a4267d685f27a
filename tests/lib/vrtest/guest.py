"""A real virtual machine: its domain XML, its disks, its power button, and a shell inside."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from .console import CommandResult, Console
from .host import Host
from .image import allocation, check_image, fsck, make_image, new_uuid
from .waiting import wait_for

MAKE_GUEST = Path(__file__).resolve().parents[3] / "scripts" / "make-guest"

AGENT_PORT = "org.virt_reclaim.agent.v1"
QEMU_GA_PORT = "org.qemu.guest_agent.0"

# The newest machine type whose virtio-blk does not pass discards on, and one that does.
OLD_MACHINE = "pc-i440fx-3.1"
NEW_MACHINE = "pc-i440fx-7.2"

BOOT_SECONDS = 180.0
MIB = 1 << 20


@dataclass
class Disk:
    """A disk with one filesystem; the guest mounts it at /mnt/NAME. XFS takes labels of 12 characters, so NAME is short."""

    name: str
    fs: str = "ext4"
    bus: str = "virtio"  # or 'scsi': virtio-scsi; 'ide': up to four, i440fx only; 'sata': q35, and not for the cloud kernel
    format: str = "raw"  # or 'qcow2'
    size: int = 1024 * MIB
    discard: str | None = None  # None: no attribute, as old tools left it; or 'ignore', 'unmap'
    cache: str | None = None  # None: no attribute, which is 'writeback'; or 'none': past the host's page cache
    # Set by Guest.
    target: str = ""
    path: Path = Path()
    # Where in the image the filesystem begins.
    start: int = 0

    @property
    def mount_point(self) -> str:
        return f"/mnt/{self.name}"

    def allocation(self) -> int:
        return allocation(self.path)

    def check(self) -> None:
        """Raises unless image and filesystem are clean. Only while the guest is off."""
        check_image(self.path, self.format)
        fsck(self.path, fs=self.fs, image_format=self.format, start=self.start)

    def xml(self) -> str:
        discard = f" discard={quoteattr(self.discard)}" if self.discard else ""
        cache = f" cache={quoteattr(self.cache)}" if self.cache else ""
        return (
            f"    <disk type='file' device='disk'>\n"
            f"      <driver name='qemu' type={quoteattr(self.format)}{cache}{discard}/>\n"
            f"      <source file={quoteattr(str(self.path))}/>\n"
            f"      <target dev={quoteattr(self.target)} bus={quoteattr(self.bus)}/>\n"
            f"    </disk>\n"
        )


@dataclass(frozen=True)
class BootFiles:
    kernel: Path
    initramfs: Path


def boot_files(agent: Path | None = None, *options: str) -> BootFiles:
    """scripts/make-guest; options are its own."""
    command = [str(MAKE_GUEST), *(["--agent", str(agent)] if agent else []), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(result.stderr.strip())
    made = json.loads(result.stdout)
    return BootFiles(Path(made["kernel"]), Path(made["initramfs"]))


class Guest:
    """Defined, with its images made, by the constructor; not started."""

    def __init__(
        self,
        host: Host,
        name: str,
        *,
        disks: list[Disk],
        machine: str = OLD_MACHINE,
        agent: Path | None = None,
        ports: tuple[str, ...] = (AGENT_PORT,),
        guest_options: tuple[str, ...] = (),
        cmdline: str = "",
        domain_type: str = "qemu",
        vcpus: int = 1,
        memory_mib: int = 512,
        shell: str = "socket",  # 'pty': a plain shell for 'virsh console'; '': none
    ) -> None:
        self.host = host
        self.name = name
        self.disks = disks
        self.ports = ports
        self.directory = host.directory / name
        self.directory.mkdir()
        self.console_log = self.directory / "console.log"
        self._shell_socket = self.directory / "shell.sock"
        self._console = Console(self._shell_socket)
        words = ["console=ttyS0", "quiet", "panic=1", "mitigations=off", f"vr.disks={len(disks)}", f"vr.ports={len(ports)}"]
        # On a busy machine an emulated timer is too late for the kernel's look whether there is one, and it panics.
        words += ["no_timer_check"]
        words += {"socket": ["vr.shell=ttyS1"], "pty": ["vr.login=ttyS1"], "": []}[shell]
        words += [cmdline] if cmdline else []
        boot = self._make_boot(agent, guest_options, " ".join(words))
        self._make_disks()
        self.host.define(self._xml(machine, domain_type, vcpus, memory_mib, shell, boot))

    # Power.

    def start(self, *, wait: bool = True, seconds: float = BOOT_SECONDS) -> None:
        self.host.virsh("start", self.name)
        if wait:
            self.wait_until_up(seconds)

    def wait_until_up(self, seconds: float = BOOT_SECONDS) -> None:
        self._console.wait_until_up(seconds)

    def shutdown(self, *, seconds: float = 120) -> None:
        """Presses the power button and waits until the guest has gone to the end by itself."""
        self.host.virsh("shutdown", self.name, "--mode", "acpi")
        self.host.wait_for_state(self.name, "shut off", seconds=seconds)
        self._console.close()

    def power_cycle(self, *, seconds: float = BOOT_SECONDS) -> None:
        """What puts a changed definition into force; a reboot from inside would not."""
        self.shutdown()
        self.start(seconds=seconds)

    def was_power_cycled(self, *, seconds: float = BOOT_SECONDS) -> None:
        """By somebody else: the console of before is gone."""
        self._console.close()
        self.wait_until_up(seconds)

    def reset(self) -> None:
        """The reset button: the guest has no time for anything."""
        self.host.virsh("reset", self.name)

    def pause(self) -> None:
        self.host.virsh("suspend", self.name)

    def resume(self) -> None:
        self.host.virsh("resume", self.name)

    def destroy(self) -> None:
        self.host.destroy(self.name)
        self._console.close()

    # Inside.

    def run(self, script: str, *, seconds: float = 120, check: bool = True) -> CommandResult:
        return self._console.run(script, seconds=seconds, check=check)

    def is_trimming(self) -> bool:
        """A trim is a child of one of the agent's threads, also while it pauses."""
        return int(self.run("cat /proc/$(vr-agent pid)/task/*/children 2>/dev/null | wc -w").output) > 0

    def wait_for_trim(self, *, seconds: float = 20) -> None:
        """Until FITRIM's turn has come: the program was started, connected and had the filesystems listed."""
        wait_for(f"a trim in '{self.name}'", self.is_trimming, seconds=seconds, pause=0.02)

    def console_text(self) -> str:
        try:
            return self.console_log.read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_for_console(self, text: str, *, after: int = 0, seconds: float = BOOT_SECONDS) -> None:
        """Until the console shows the text; after: how much of the console was there before."""
        wait_for(f"'{text}' on the console of '{self.name}'", lambda: text in self.console_text()[after:], seconds=seconds)

    def disk(self, name: str) -> Disk:
        return next(disk for disk in self.disks if disk.name == name)

    # Outside.

    def live_xml(self) -> str:
        return self.host.virsh("dumpxml", self.name).stdout

    def saved_xml(self) -> str:
        return self.host.virsh("dumpxml", "--inactive", self.name).stdout

    def _make_disks(self) -> None:
        prefix = {"virtio": "vd", "scsi": "sd", "ide": "hd", "sata": "sd"}
        letters = {"vd": iter("abcdefghijklmnopqrstuvwxyz"), "sd": iter("abcdefgh"), "hd": iter("abcd")}
        for disk in self.disks:
            disk.target = prefix[disk.bus] + next(letters[prefix[disk.bus]])
            disk.path = self.directory / f"{disk.name}.{disk.format}"
            self._make_disk(disk)

    def _make_disk(self, disk: Disk) -> None:
        make_image(disk.path, fs=disk.fs, size=disk.size, image_format=disk.format, label=disk.name)

    def _make_boot(self, agent: Path | None, guest_options: tuple[str, ...], cmdline: str) -> str:
        """What the guest boots from: as XML, for <os>."""
        made = boot_files(agent, *guest_options)
        # The cache drops old files; this guest may be started again after that.
        kernel, initramfs = self.directory / "vmlinuz", self.directory / "initramfs"
        kernel.write_bytes(made.kernel.read_bytes())
        initramfs.write_bytes(made.initramfs.read_bytes())
        return (
            f"    <kernel>{escape(str(kernel))}</kernel>\n"
            f"    <initrd>{escape(str(initramfs))}</initrd>\n"
            f"    <cmdline>{escape(cmdline)}</cmdline>\n"
        )

    def _xml(self, machine: str, domain_type: str, vcpus: int, memory_mib: int, shell: str, boot: str) -> str:
        serial = {
            "socket": f"    <serial type='unix'><source mode='bind' path={quoteattr(str(self._shell_socket))}/>"
            "<target port='1'/></serial>\n",
            "pty": "    <serial type='pty'><target port='1'/></serial>\n",
            "": "",
        }[shell]
        disks = "".join(disk.xml() for disk in self.disks)
        # libvirt's own choice of a controller for bus='scsi' would be an LSI one.
        any_scsi = any(disk.bus == "scsi" for disk in self.disks)
        scsi = "    <controller type='scsi' index='0' model='virtio-scsi'/>\n" if any_scsi else ""
        ports = "".join(
            f"    <channel type='unix'><target type='virtio' name={quoteattr(port)}/></channel>\n" for port in self.ports
        )
        return (
            f"<domain type={quoteattr(domain_type)}>\n"
            f"  <name>{escape(self.name)}</name>\n"
            f"  <uuid>{new_uuid()}</uuid>\n"
            f"  <memory unit='MiB'>{memory_mib}</memory>\n"
            f"  <vcpu>{vcpus}</vcpu>\n"
            f"  <os>\n"
            f"    <type arch='x86_64' machine={quoteattr(machine)}>hvm</type>\n"
            f"{boot}"
            f"  </os>\n"
            # Without ACPI there is no power button.
            f"  <features><acpi/></features>\n"
            f"  <devices>\n"
            f"{disks}{scsi}{ports}"
            f"    <serial type='file'><source path={quoteattr(str(self.console_log))} append='on'/>"
            f"<target port='0'/></serial>\n"
            f"{serial}"
            f"    <memballoon model='none'/>\n"
            f"  </devices>\n"
            f"</domain>\n"
        )
