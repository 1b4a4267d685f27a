"""The facts of a guest that is off, read from its disk: the same as its agent tells, and not a byte of the disk changes.

A real Debian, in the variants that decide about a change of the bus; and disks on which there is nothing to be known. Before that the
Debian gets its agent, in both ways there are without qemu-guest-agent: the step that is printed for a guest that is off, and the
user-data for cloud-init.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

import bedpath

from vrtest import DaemonHost, DebianGuest, HostTestCase, TimedOut, VirtReclaim, Workspace, built, domain_xml, main, skip_all, wait_for
from vrtest.debian_guest import INSTALLED_UNIT
from vrtest.guest import MIB

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"
DONE, REFUSED, INTERRUPTED = 0, 5, 130
# Several times what it takes: nothing is timed here.
BOOT_SECONDS = 600.0
AGENT_SECONDS = 120.0
READ_SECONDS = 300.0
INSTALL_SECONDS = 600.0
STARTED = "the appliance runs"
SCSI = "--bus=virtio-scsi"
# /dev/kvm can be there and hang: emulation is slow, and works everywhere.
os.environ.setdefault("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")

FIXABLE = re.compile(r" \(--fix-guest changes it.*\)$")

# As make-debian-guest does it with --by-path --resume --initramfs=virtio-blk-only: in files, from which both readers take it.
BY_PATH = """
set -e
sed -i 's,^UUID=[^ ]* / ,/dev/vda1 / ,; $a /dev/vda2 none swap sw 0 0' /etc/fstab
sed -i 's,="console=ttyS0 ,="resume=/dev/vda2 console=ttyS0 ,; $a GRUB_DISABLE_LINUX_UUID=true' /etc/default/grub
sed -i 's,root=UUID=[^ ]* ,root=/dev/vda1 ,; s,console=ttyS0 ,resume=/dev/vda2 console=ttyS0 ,' /boot/grub/grub.cfg
echo RESUME=/dev/vda2 >/etc/initramfs-tools/conf.d/resume
echo MODULES=dep >/etc/initramfs-tools/conf.d/driver-policy
cp /usr/lib/test-initrds/virtio-blk-only /boot/initrd.img-$(uname -r)
sync
"""

def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def features(image: Path, start: int) -> str:
    """Of the ext4 that begins there."""
    done = subprocess.run(["debugfs", "-R", "features", f"{image}?offset={start}"], capture_output=True, text=True, check=True)
    return done.stdout


def put(file: Path, image: Path, start: int, name: str) -> None:
    """Into /root of the ext4 that begins there."""
    script = file.with_suffix(".debugfs")
    script.write_text(f"cd /root\nwrite {file} {name}\n")
    subprocess.run(["debugfs", "-w", "-f", script, f"{image}?offset={start}"], capture_output=True, check=True)


def another(xml: str, name: str, old_image: Path, image: Path) -> str:
    """The same domain under another name, with a disk of its own."""
    domain = ElementTree.fromstring(xml)
    domain.find("name").text = name
    domain.remove(domain.find("uuid"))
    (source,) = (source for source in domain.iter("source") if source.get("file") == str(old_image))
    source.set("file", str(image))
    return ElementTree.tostring(domain, encoding="unicode")


def appliances(image: Path) -> list[str]:
    """What runs for virt-reclaim-guestfs, which has the image in its arguments, and of its process group."""
    done = subprocess.run(["ps", "-eo", "pid,pgid,args"], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in done.stdout.splitlines()[1:]]
    groups = {row[1] for row in rows if str(image) in row[2]}
    return [row[2] for row in rows if row[1] in groups and "qemu-system" in row[2]]


def litter() -> set[str]:
    return {path.name for path in Path("/tmp").glob("*guestfs*")}


class OfflineTest(HostTestCase):
    def plan(self, name: str, *options: str) -> dict[str, object]:
        begin = time.monotonic()
        reply = self.reclaim.run("migrate", "plan", *options, name, seconds=READ_SECONDS)
        print(f"plan of {name}: {time.monotonic() - begin:.1f} s", flush=True)
        self.assertIn(reply.status, (DONE, REFUSED), str(reply))
        (domain,) = reply.json["domains"]
        return domain


class Debian(OfflineTest):
    """What its agent tells is what its disk tells. One guest, which takes an emulated CPU a minute to boot, in two variants. The
    methods are one story and run in the order of their names."""

    name = "debian"
    guest: DebianGuest
    user_data: Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = DebianGuest(cls.host, cls.name)

    def wait_for_agent(self) -> None:
        try:
            wait_for("the agent", lambda: self.reclaim.run("agent", "status", self.name).status == DONE, seconds=AGENT_SECONDS)
        except TimedOut:
            self.fail(self.guest.agent_log())
        self.assertEqual(self.guest.agent_unit(), INSTALLED_UNIT)

    def require_same(self, name: str, image: Path, told: dict[str, object], *options: str) -> dict[str, object]:
        """By the disk of this domain, which is off, as its agent told before."""
        before, files = sha256(image), litter()
        read = self.plan(name, *options)
        self.assertEqual(sha256(image), before, "the disk changed")
        self.assertEqual(litter(), files)
        self.assertEqual(facts(read), facts(told))
        return read

    def test_0_the_step_for_a_guest_that_is_off_puts_the_agent_into_it(self) -> None:
        """The command line as it is printed. libguestfs cannot open libvirt's embedded driver: it asks a libvirtd with the same domain."""
        with Workspace() as space:
            daemon = DaemonHost(space)
            daemon.define(self.guest.saved_xml())
            reclaim = VirtReclaim(PROGRAM, daemon, VIRT_RECLAIM_AGENT_FILES=str(PACKAGING))
            reply = reclaim.run("agent", "install", f"--agent-binary={AGENT}", self.name)
            self.assertEqual(reply.status, REFUSED, str(reply))
            (domain,) = reply.json["domains"]
            (step,) = domain["steps"]
            begin = time.monotonic()
            done = subprocess.run(
                step["command"], env={**os.environ, "LIBGUESTFS_BACKEND": "direct"}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, check=False, timeout=INSTALL_SECONDS,
            )
            print(f"{step['command'][0]}: {time.monotonic() - begin:.1f} s", flush=True)
            self.assertEqual(done.returncode, 0, done.stdout)
        type(self).user_data = self.space.path / "user-data"
        with self.user_data.open("wb") as file:
            subprocess.run(
                [PACKAGING / "examples" / "cloud-init-agent", AGENT], stdout=file, check=True,
                env={**os.environ, "VIRT_RECLAIM_AGENT_FILES": str(PACKAGING)},
            )
        put(self.user_data, self.guest.root.path, self.guest.root.start, "user-data")
        self.guest.start(seconds=BOOT_SECONDS)
        self.wait_for_agent()

    def test_1_user_data_for_cloud_init_puts_it_there_again(self) -> None:
        """Here as the script it is; that cloud-init runs it: packages/systemd_test."""
        self.assertEqual(self.guest.run("cat /root/user-data | wc -c").output.strip(), str(self.user_data.stat().st_size))
        self.guest.remove_agent()
        self.assertNotEqual(self.reclaim.run("agent", "status", self.name).status, DONE)
        self.guest.run("sh /root/user-data && rm /root/user-data", seconds=INSTALL_SECONDS)
        self.wait_for_agent()
        self.assertEqual(self.guest.run("systemctl --failed --plain --no-legend").output, "")

    def test_2_ready_for_another_bus_and_without_power(self) -> None:
        """A guest that has lost its power has a journal to replay, which no reader may do on the disk."""
        told = self.plan(self.name, SCSI)
        self.guest.run("sync; touch /srv/a; sync -d /srv")
        image = self.space.path / "lost-power.raw"
        # What is on the disk of a guest that stands still is what its loss of power would leave there.
        self.guest.pause()
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", self.guest.root.path, image], check=True)
        self.guest.resume()
        self.assertIn("needs_recovery", features(image, self.guest.root.start))
        self.host.define(another(self.guest.saved_xml(), "lost-power", self.guest.root.path, image))
        plan = self.require_same("lost-power", image, told, SCSI)
        self.assertEqual(plan["blockers"], [])
        self.assertIn("fstrim-timer", plan["risks"])

    def test_3_everything_by_path_and_no_driver(self) -> None:
        self.guest.run(BY_PATH)
        told = self.plan(self.name, SCSI)
        self.guest.shutdown()
        plan = self.require_same(self.name, self.guest.root.path, told, SCSI)
        self.guest.root.check()
        self.assertIn("guest-names-disk", plan["blockers"])
        self.assertIn("initramfs-lacks-driver", plan["blockers"])


class Disks(OfflineTest):
    """Disks of which nothing can be known say so, each its own way."""

    def detail(self, name: str, *paths: Path, image_format: str = "raw") -> str:
        self.host.define(domain_xml(name, *((image_format, path) for path in paths)))
        before = [sha256(path) for path in paths]
        (blocker,) = self.plan(name, SCSI)["blockers_explained"]
        self.assertEqual([sha256(path) for path in paths], before, "a disk changed")
        self.assertEqual(blocker["code"], "guest-unknown")
        return blocker["detail"]

    def image(self, name: str, size: int = 64 * MIB) -> Path:
        path = self.space.path / name
        with path.open("wb") as file:
            file.truncate(size)
        return path

    def test_1_luks(self) -> None:
        path = self.image("luks.raw")
        subprocess.run(
            ["cryptsetup", "luksFormat", "-q", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000", path, "-"],
            input=b"key", check=True, capture_output=True,
        )
        self.assertEqual(self.detail("luks", path), "it is off, and its disks are encrypted")

    def test_2_empty_and_data_only(self) -> None:
        empty, path = self.image("empty.raw"), self.image("data.raw")
        subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True, capture_output=True)
        self.assertEqual(self.detail("data", empty, path), "it is off, and no operating system was found on its disks")

    def test_3_not_an_image_of_that_format(self) -> None:
        detail = self.detail("wrong", self.image("wrong.qcow2"), image_format="qcow2")
        self.assertRegex(detail, "^it is off, and its disks cannot be read: open '.*wrong.qcow2': .*error status 1.$")

    def test_4_interrupted(self) -> None:
        path = self.image("stopped.raw")
        self.host.define(domain_xml("stopped", ("raw", path)))
        before = litter()
        plan = self.reclaim.start("migrate", "plan", SCSI, "stopped")
        try:
            wait_for("the appliance", lambda: appliances(path), seconds=READ_SECONDS)
            begin = time.monotonic()
            plan.send_signal(signal.SIGINT)
            plan.communicate(timeout=30)
        finally:
            plan.kill()
        print(f"stopped after {time.monotonic() - begin:.1f} s", flush=True)
        self.assertEqual(plan.returncode, INTERRUPTED)
        wait_for("the appliance's end", lambda: not appliances(path), seconds=10)
        self.assertEqual(litter(), before)

    def test_5_not_installed(self) -> None:
        type(self).reclaim = VirtReclaim(PROGRAM, self.host, VIRT_RECLAIM_GUESTFS="/nonexistent")
        detail = self.detail("none", self.image("none.raw"))
        self.assertEqual(detail, "it is off: start it, or install virt-reclaim-guestfs")


class VolumeGroup(OfflineTest):
    """A root on two disks: each of them alone says nothing."""

    def test_0_both_disks_are_read(self) -> None:
        self.assertEqual(VOLUME_GROUP.returncode, 0, VOLUME_GROUP.stderr)
        disks = group_disks(GROUP_DIRECTORY)
        self.host.define(domain_xml("group", *(("raw", path) for path in disks)))
        before = [sha256(path) for path in disks]
        plan = self.plan("group", SCSI)
        self.assertEqual([sha256(path) for path in disks], before, "a disk changed")
        found = {(one["code"], one["detail"]) for one in plan["blockers_explained"]}
        self.assertEqual(
            found,
            {("initramfs-lacks-driver", "sd_mod for kernel 6.1.0-1-amd64"), ("guest-names-disk", "/boot/grub/grub.cfg:1: /dev/vdb")},
        )


def group_disks(directory: Path) -> list[Path]:
    return [directory / "first.raw", directory / "second.raw"]


def make_volume_group(directory: Path) -> subprocess.CompletedProcess[str]:
    """In libguestfs's appliance; says STARTED once that runs."""
    tree = directory / "tree.tar"
    system(tree)
    disks = group_disks(directory)
    for path in disks:
        with path.open("wb") as file:
            file.truncate(64 * MIB)
    script = f"""
        add {disks[0]} format:raw
        add {disks[1]} format:raw
        run
        echo {STARTED}
        pvcreate /dev/sda
        pvcreate /dev/sdb
        vgcreate vg "/dev/sda /dev/sdb"
        lvcreate root vg 100
        mkfs ext4 /dev/vg/root
        mount /dev/vg/root /
        tar-in {tree} /
    """
    return subprocess.run(
        ["guestfish"], input=script, env={**os.environ, "LIBGUESTFS_BACKEND": "direct"}, capture_output=True, text=True,
        check=False, timeout=READ_SECONDS,
    )


def system(path: Path) -> None:
    """Enough of a Debian to be taken for one. Its initramfs is not compressed and has one of the two drivers."""
    release = "6.1.0-1-amd64"
    files = {
        "etc/os-release": "ID=debian\nVERSION_ID=12\nPRETTY_NAME=Debian\n",
        "etc/debian_version": "12.0\n",
        "etc/fstab": "/dev/vg/root / ext4 defaults 0 1\n",
        "boot/grub/grub.cfg": "linux /boot/vmlinuz root=/dev/mapper/vg-root resume=/dev/vdb\n",
        f"boot/vmlinuz-{release}": "",
        f"lib/modules/{release}/modules.builtin": "kernel/fs/ext4/ext4.ko\n",
        f"lib/modules/{release}/modules.dep": "kernel/drivers/scsi/virtio_scsi.ko:\nkernel/drivers/scsi/sd_mod.ko:\n",
    }
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], input=b"init\nvirtio_scsi.ko\n", capture_output=True, check=True,
        cwd=make_files(path.parent / "initramfs", {"init": "", "virtio_scsi.ko": ""}),
    ).stdout
    root = make_files(path.parent / "tree", files)
    for name in ("bin", "dev", "proc", "sys", "tmp", "usr", "var"):
        (root / name).mkdir()
    (root / f"boot/initrd.img-{release}").write_bytes(archive)
    subprocess.run(["tar", "-C", root, "-cf", path, "."], check=True)


def make_files(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def facts(plan: dict[str, object]) -> dict[str, object]:
    """What a plan says about the guest, but for when it could be fixed: that takes one that runs."""
    return {
        key: sorted((one["code"], FIXABLE.sub("", one["detail"])) for one in plan[f"{key}_explained"])
        for key in ("blockers", "risks")
    }


if __name__ == "__main__":
    bedpath.require_bed("mmdebstrap", "debugfs", "mkswap", "guestfish", "cryptsetup", "cpio", "virt-customize", "libvirtd")
    PROGRAM, AGENT = built("virt-reclaim", "virt-reclaim-agent")
    READER = Path(os.environ["VIRT_RECLAIM_BUILD_DIR"]) / "host" / "guestfs" / "virt-reclaim-guestfs"
    if not READER.exists():
        skip_all("virt-reclaim-guestfs is not built")
    os.environ["VIRT_RECLAIM_GUESTFS"] = str(READER)
    with Workspace() as space:
        GROUP_DIRECTORY = space.path
        # An appliance has to be started for this, so that it also shows whether libguestfs can.
        VOLUME_GROUP = make_volume_group(GROUP_DIRECTORY)
        if STARTED not in VOLUME_GROUP.stdout:
            skip_all(f"libguestfs cannot start its appliance: {VOLUME_GROUP.stderr.strip()}")
        main(one_story=True)
