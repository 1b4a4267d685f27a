#!/usr/bin/env python3
"""The story scripts/quickstart tells: one act after the other, on a real guest, with the real programs.

Each act is a function that shows what it does and checks that it came out as told; a story that goes wrong ends at once,
says where, and removes what it made all the same.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "lib"))

from vrtest import Disk, EmbedHost, Guest, Workspace, wait_for  # noqa: E402
from vrtest.accelerator import choose_accelerator  # noqa: E402
from vrtest.guest import OLD_MACHINE, boot_files  # noqa: E402
from vrtest.host import DomainProblem  # noqa: E402
from vrtest.programs import find_program  # noqa: E402
from vrtest.waiting import TimedOut  # noqa: E402
from vrtest.workspace import Interrupted, supports_holes  # noqa: E402

DOMAIN = "demo"
MIB = 1 << 20
# What scripts/guest/sbin/vr-used-disk writes and deletes again on each disk.
JUNK_BYTES = 320 * MIB
# Metadata and files lie between the junk, so not all of it can come back; most of it must.
EXPECTED_SHARE = 0.8
BOOT_SECONDS = 240.0
# With less QEMU stops the guest in the middle of a write, and nothing moves any more.
FULL_BYTES = 4 * MIB


class StoryProblem(Exception):
    """The story did not go as told."""


class Voice:
    """What the reader sees. Colour only where somebody looks."""

    def __init__(self) -> None:
        colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        self._bold, self._green, self._dim, self._plain = (
            ("\033[1m", "\033[32m", "\033[2m", "\033[0m") if colour else ("", "", "", "")
        )

    def title(self, text: str) -> None:
        print(f"\n{self._bold}== {text}{self._plain}", flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def command(self, text: str) -> None:
        print(f"{self._green}$ {text}{self._plain}", flush=True)

    def guest(self, text: str) -> None:
        print(f"{self._dim}  {text}{self._plain}", flush=True)


class Story:
    def __init__(self, voice: Voice, space: Workspace, program: Path, agent: Path, *, shell: str = "") -> None:
        self.voice = voice
        self.program = program
        self.agent = agent
        self._shell = shell
        self.host = EmbedHost(space.path)
        self.guest: Guest | None = None
        self._console_read = 0

    def run(self) -> None:
        self.make_guest()
        self.first_boot()
        self.report()
        self.trim_in_vain()
        self.migrate()
        self.power_cycle()
        self.trim_for_real()
        self.report()
        self.prove()

    # The acts.

    def make_guest(self) -> None:
        self.voice.title("A virtual machine with old settings")
        accelerator = choose_accelerator(boot_files().kernel)
        self.voice.say(accelerator.sentence)
        self.guest = Guest(
            self.host, DOMAIN, machine=OLD_MACHINE, agent=self.agent, domain_type=accelerator.domain_type, vcpus=2,
            shell=self._shell, cmdline="vr.scenario=used-disk",
            disks=[Disk("vda", bus="virtio", format="raw"), Disk("sda", bus="scsi", format="qcow2")],
        )
        self.voice.say(f"'{DOMAIN}': machine type {OLD_MACHINE}, nothing about discard in its XML; two disks of 1 GiB:")
        self.voice.say("vda on virtio-blk (raw), sda on virtio-scsi (qcow2)")
        self.voice.say("its libvirt is a private one, in a directory of its own:")
        self.voice.command(f"URI='{self.host.uri}'")

    def first_boot(self) -> None:
        self.voice.title("Its first boot: files are written, most bytes are deleted again")
        self.start()
        self._show_allocation()

    def report(self) -> None:
        self.voice.title("Report: what each disk takes, and what stands in the way")
        self._reclaim("report", DOMAIN, expected=0)

    def trim_in_vain(self) -> None:
        self.voice.title("Trim, the machine as found: the guest tries, the host gets nothing")
        before = self._allocations()
        self._reclaim("trim", DOMAIN, expected=4)
        freed = sum(before) - sum(self._allocations())
        if freed > 8 * MIB:
            raise StoryProblem(f"the host was to get nothing back, it got {freed // MIB} MiB")
        self.voice.say("exit status 4: done, but the host got nothing back - with the reason for each disk, above")

    def migrate(self) -> None:
        self.voice.title("Migrate: what would change, then do it")
        self._reclaim("migrate", "plan", "--diff", DOMAIN, expected=0)
        self._reclaim("migrate", "apply", "--yes", DOMAIN, expected=0)

    def power_cycle(self) -> None:
        self.voice.title("Off and on again: only a new QEMU reads the new settings")
        self._shut_down()
        self.start()
        self._require_files_checked(2)

    def trim_for_real(self) -> None:
        self.voice.title("Trim again: trimmed in the guest, freed on the host")
        before = self._allocations()
        self._reclaim("trim", DOMAIN, expected=0)
        assert self.guest
        for disk, old, new in zip(self.guest.disks, before, self._allocations()):
            if old - new < EXPECTED_SHARE * JUNK_BYTES:
                raise StoryProblem(
                    f"{disk.name} was to shrink by most of {JUNK_BYTES // MIB} MiB: {old // MIB} -> {new // MIB} MiB"
                )
        self._show_allocation()

    def prove(self) -> None:
        self.voice.title("Proof: nothing was lost")
        assert self.guest
        begin = self._console_read
        self._shut_down()
        if self.guest.console_text()[begin:].count("have the right sha256") != len(self.guest.disks):
            raise StoryProblem("the guest does not confirm the sha256 of its files after the trim")
        for disk in self.guest.disks:
            disk.check()
            check = "qemu-img check: no errors; " if disk.format != "raw" else ""
            self.voice.say(f"{disk.name}: {check}e2fsck -fn: clean")

    # What acts are made of.

    def start(self) -> None:
        self._virsh("start", DOMAIN)
        self._follow_console("guest: ready")

    def _reclaim(self, *words: str, expected: int) -> None:
        self.voice.command(f'virt-reclaim --connect "$URI" {" ".join(words)}')
        done = subprocess.run(
            [self.program, "--connect", self.host.uri, *words], env=self.host.environment(), stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode != expected:
            raise StoryProblem(
                f"'virt-reclaim {' '.join(words)}' was to exit with {expected}, it exited with {done.returncode}"
            )

    def _virsh(self, *words: str) -> None:
        self.voice.command(f'virsh -c "$URI" {" ".join(words)}')
        self.host.virsh(*words)

    def _shut_down(self) -> None:
        assert self.guest
        self._virsh("shutdown", DOMAIN, "--mode", "acpi")
        self._follow_console("guest: power off")
        self.host.wait_for_state(DOMAIN, "shut off", seconds=60)

    def _follow_console(self, last: str) -> None:
        """Shows the guest's own lines as they come, to the one given."""
        assert self.guest
        guest = self.guest

        def reached() -> bool:
            text = guest.console_text()
            end = text.rfind("\n") + 1
            lines = text[self._console_read:end].splitlines()
            self._console_read = max(end, self._console_read)
            for line in lines:
                if line.startswith("guest: "):
                    self.voice.guest(line.rstrip())
            if shutil.disk_usage(self.host.directory).free < FULL_BYTES:
                raise StoryProblem(f"the disk below '{self.host.directory}' is full: free some space, or set TMPDIR to a "
                                   "larger disk")
            return any(line.startswith(last) for line in lines)

        wait_for(f"'{last}' from the guest", reached, seconds=BOOT_SECONDS)

    def _require_files_checked(self, disks: int) -> None:
        assert self.guest
        text = self.guest.console_text()
        if "DAMAGED" in text or text.count("have the right sha256") < disks:
            raise StoryProblem("the guest does not confirm the sha256 of its files")

    def _allocations(self) -> list[int]:
        assert self.guest
        return [disk.allocation() for disk in self.guest.disks]

    def _show_allocation(self) -> None:
        assert self.guest
        names = [disk.path.name for disk in self.guest.disks]
        self.voice.command(f"du -m {' '.join(names)}")
        for name, size in zip(names, self._allocations()):
            self.voice.say(f"{size / MIB:.0f}\t{name}")


def explain_failure(story: Story | None) -> None:
    """What a bug report would need, before it is removed."""
    if story and story.guest and (lines := story.guest.console_text().splitlines()):
        print("the guest's last lines:", file=sys.stderr)
        for line in lines[-12:]:
            print(f"  {line}", file=sys.stderr)


def leave_for_user(voice: Voice, story: Story, space: Workspace) -> None:
    assert story.guest
    voice.title("Once more on, to stay")
    story.start()
    space.keep()
    voice.title(f"'{DOMAIN}' stays (--keep)")
    voice.say("Only one program at a time can use this libvirt; a console that is open keeps the others out.")
    voice.command(f"URI='{story.host.uri}'")
    voice.command(f'{story.program} --connect "$URI" report')
    voice.command(f'virsh -c "$URI" console {DOMAIN} --devname serial1    # root shell; leave with ctrl-]')
    voice.say("And to remove it:")
    voice.command(f'virsh -c "$URI" destroy {DOMAIN}; rm -rf {space.path}')


def next_steps(voice: Voice, build: Path) -> None:
    voice.title("What next")
    voice.say(f"The programs are in {build}. On a hypervisor of yours, only looking:")
    voice.command("virt-reclaim report")
    voice.command("virt-reclaim migrate plan --diff")
    voice.say("To play with the machine of this story: scripts/quickstart --keep")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/quickstart.py", description=__doc__.splitlines()[0])
    parser.add_argument("--build-dir", type=Path, required=True, metavar="DIR")
    parser.add_argument("--keep", action="store_true")
    args = parser.parse_args()
    program, agent = (find_program(name, args.build_dir) for name in ("virt-reclaim", "virt-reclaim-agent"))
    if not program or not agent:
        print(f"quickstart: no virt-reclaim and virt-reclaim-agent in '{args.build_dir}': build them there, or leave "
              "--build-dir out", file=sys.stderr)
        return 1
    voice = Voice()
    begin = time.monotonic()
    story = None
    with Workspace() as space:
        try:
            if not supports_holes(space.path):
                raise StoryProblem(f"files in '{space.path.parent}' cannot give blocks back (no punch holes): set TMPDIR to a "
                                   "directory on ext4, XFS, btrfs or tmpfs")
            story = Story(voice, space, program, agent, shell="pty" if args.keep else "")
            story.run()
        except (StoryProblem, DomainProblem, TimedOut, OSError, RuntimeError, subprocess.SubprocessError) as problem:
            explain_failure(story)
            print(f"quickstart: {problem}", file=sys.stderr)
            return 1
        except Interrupted:
            print("\nquickstart: interrupted; the machine and its files are removed", file=sys.stderr)
            raise
        if args.keep:
            leave_for_user(voice, story, space)
    if not args.keep:
        voice.say(f"\nAll done in {time.monotonic() - begin:.0f} s; the machine and its files are removed.")
    next_steps(voice, args.build_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
