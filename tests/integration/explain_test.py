"""Faults on the way of a discard, made in real chains: explain names each one first, and --probe agrees.

One guest carries nearly all of them, a disk each, since booting is what costs time (explain_faults.py). Every reason code that the
program's own table calls a culprit, an unknown or a remark of a chain is said here, or is on a list with the reason why it cannot be.
"""

from __future__ import annotations

import fcntl
import re
from typing import Any

import bedpath
from explain_faults import CDROM, LAYERS, PROGRAMS, SIZE, USB, FaultyGuest

from vrtest import Disk, Guest, HostTestCase, Reply, built, main, wait_for
from vrtest.guest import OLD_MACHINE, QEMU_GA_PORT

DONE, NOTHING_FREED, REFUSED = 0, 4, 5

# Codes of the table that are not made here, and why. Each has a unit test on made-up facts.
NOT_MADE_HERE = {
    "machine-unknown": "QEMU has no such machine type; they are those of distributions",
    "no-medium": "libvirt takes no disk without a source but a CD-ROM, which is named not-a-disk",
    "discard-not-proved": "stands for faults that nobody knows",
}
# Disk -> what explain has to name, what the layer's verdict is, and what the probe has to say.
EXPECTED: dict[str, tuple[str | None, str | None, bool | None]] = {
    "plain": (None, None, True),
    "btrfs": (None, None, True),  # the guest does not tell where the marker lies
    "luks": ("dm-crypt", "drops", False),
    "thin": ("guest-layer", "drops", False),
    "linear": (None, None, True),
    "span1": ("guest-layer", "drops", False),
    "span2": ("guest-not-supported", "drops", False),
    "leg1": (None, None, True),
    "leg2": ("discard-ignored", "drops", False),
    "loop": ("loop-device", "partly", True),
    "ro": ("read-only", "drops", None),
    "squash": ("filesystem-not-supported", "drops", None),
    "ignored": ("discard-ignored", "drops", False),
    "snap": ("internal-snapshots", "partly", True),
    "overlay": ("overlay", "partly", True),
    "thick": (None, None, None),  # a probe would thin it
    "cluster": (None, None, True),
    "extdata": (None, None, True),
    "block": (None, None, None),  # the host does not tell what it occupies
    # By a filesystem without holes; what else lacks them (a block device without discards, NFS before 4.2) is not made here.
    "nohole": ("storage-cannot-punch", "drops", False),
    "vmdk": ("image-format", "drops", False),
    "mute": ("guest-not-supported", "drops", False),
}

# What explain has said in all of these tests: of whole domains, and of layers by their verdict.
SAID: dict[str, set[str]] = {"first": set(), "unknown": set(), "remark": set()}


def explained(reply: Reply) -> dict[str, dict[str, Any]]:
    (domain,) = reply.json["domains"]
    SAID["remark"].update(domain["remarks"])
    for disk in domain["disks"]:
        if disk["first_culprit"]:
            SAID["first"].add(disk["first_culprit"]["code"])
        for layer in disk["layers"]:
            SAID["remark"].update(layer["remarks"])
            if layer["verdict"] == "unknown":
                SAID["unknown"].update(layer["reasons"])
    return {disk["target"]: disk for disk in domain["disks"]}


def remarks_of(disk: dict[str, Any]) -> set[str]:
    return {code for layer in disk["layers"] for code in layer["remarks"]}


class Layers(HostTestCase):
    """The methods are one story and run in the order of their names; unittest stops at the first that fails."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = FaultyGuest(cls.host, cls.space, "deep", list(EXPECTED), AGENT)
        cls.guest.start()
        cls.guest.run(LAYERS, seconds=600)

    def explain(self, status: int, *words: str) -> dict[str, dict[str, Any]]:
        reply = self.reclaim.run("explain", *words, seconds=900)
        self.assertEqual(reply.status, status, str(reply))
        return explained(reply)

    def target(self, name: str) -> str:
        return f"deep:{self.guest.disk(name).target}"

    def judge(self, name: str, status: int, *words: str) -> dict[str, Any]:
        (disk,) = self.explain(status, *words, self.target(name)).values()
        return disk

    def test_1_each_fault_is_named_first(self) -> None:
        found = self.explain(NOTHING_FREED, "deep")
        for name, (code, verdict, _) in EXPECTED.items():
            with self.subTest(disk=name):
                shown = found[self.guest.disk(name).target]
                culprit = shown["first_culprit"]
                self.assertEqual(culprit and culprit["code"], code, str(shown))
                self.assertEqual(culprit and culprit["verdict"], verdict, str(shown))
                if code:
                    self.assertIsNotNone(culprit["layer"])
                else:
                    self.assertEqual(shown["verdict"], "ok", str(shown))
        self.assertIn(self.leg_of_span(), found[self.guest.disk("span1").target]["first_culprit"]["detail"])

    def leg_of_span(self) -> str:
        """The guest's name of the disk that spoils the volume over two."""
        found = self.guest.run("lvm pvs --noheadings -o pv_name -S vg_name=spanvg | grep -o 'vd[a-z]*' | sort").output
        return found.split()[-1]

    def test_2_the_probe_agrees(self) -> None:
        found = self.explain(NOTHING_FREED, "--probe", "deep")
        for name, (_, _, reaches) in EXPECTED.items():
            with self.subTest(disk=name):
                shown = found[self.guest.disk(name).target]
                self.assertEqual(shown["probe"]["discards_reach_host"], reaches, str(shown))

    def test_3_remarks(self) -> None:
        found = self.explain(NOTHING_FREED, "deep")

        def remarks(name: str) -> set[str]:
            return remarks_of(found[self.guest.disk(name).target])

        self.assertEqual(remarks("plain"), set())
        self.assertEqual(remarks("thick"), {"thick-image"})
        self.assertEqual(remarks("cluster"), {"large-clusters", "mounted-nodiscard"})
        self.assertEqual(remarks("extdata"), {"external-data-file"})
        self.assertEqual(remarks("block"), {"block-device", "qcow2-on-block-device"})
        plain = found[self.guest.disk("plain").target]["layers"][0]
        self.assertEqual((plain["layer"], plain["name"]), ("filesystem", "/mnt/plain"))
        self.assertIn("mounted with discard", plain["detail"])

    def test_4_report_says_nothing_else(self) -> None:
        found = self.explain(NOTHING_FREED, "deep")
        (domain,) = self.reclaim.run("report", "deep").json["domains"]
        for disk in domain["disks"]:
            if disk["device"] != "disk":
                continue
            with self.subTest(disk=disk["image"]):
                layers = found[disk["target"]]["layers"]
                codes = {code for layer in layers for code in layer["reasons"] + layer["remarks"]}
                self.assertLessEqual(set(disk["blockers"]), codes)

    def test_5_what_it_advises_helps(self) -> None:
        self.guest.run(
            "DM_DISABLE_UDEV=1 cryptsetup refresh --allow-discards --persistent cryptdata --key-file /run/key\n"
            "DM_DISABLE_UDEV=1 lvm lvchange -q --discards passdown slim/pool"
        )
        for name in ("luks", "thin"):
            with self.subTest(disk=name):
                shown = self.judge(name, DONE, "--probe")
                self.assertIsNone(shown["first_culprit"], str(shown))
                self.assertTrue(shown["probe"]["discards_reach_host"], str(shown))

    def test_6_the_hints_are_commands(self) -> None:
        found = self.explain(NOTHING_FREED, "deep")

        def command(name: str) -> list[str]:
            words = re.search(r"'(virsh [^']*)'", found[self.guest.disk(name).target]["first_culprit"]["fix"])
            assert words
            return words[1].split()[3:]  # without 'virsh --connect URI'

        self.host.virsh(*command("snap"))
        self.host.virsh(*command("overlay"), "--wait")
        self.assertIsNone(self.judge("overlay", DONE, "--probe")["first_culprit"])

    def test_6_files_in_files_and_a_mirror_of_files_are_walked_through(self) -> None:
        layers = self.judge("loop", DONE)["layers"]
        mounts = {layer["name"] for layer in layers if layer["layer"] == "filesystem"}
        self.assertEqual(mounts, {"/mnt/loop", "/mnt/inner", "/mnt/nested", "/mnt/mirror"})
        devices = {layer["name"]: (layer["verdict"], layer["reasons"]) for layer in layers if layer["layer"] == "guest-device"}
        self.assertEqual(devices.pop("md1"), ("ok", []))
        self.assertEqual(set(map(str, devices)), {f"loop{i}" for i in range(4)})
        self.assertEqual({str(said) for said in devices.values()}, {str(("partly", ["loop-device"]))})

    def test_6_files_in_files_are_probed_themselves(self) -> None:
        def probe() -> dict[str, Any]:
            found = self.judge("loop", DONE, "--probe")["probe"]
            self.assertTrue(found["discards_reach_host"], str(found))
            return {file["mount_point"]: file for file in found["files"]}

        holders = {"/mnt/inner": ["/mnt/loop"], "/mnt/nested": ["/mnt/inner"], "/mnt/mirror": ["/mnt/loop"]}
        found = probe()
        self.assertEqual({name: file["holders"] for name, file in found.items()}, holders)
        for name, file in found.items():
            with self.subTest(filesystem=name):
                self.assertTrue(file["discards_reach_holders"], str(file))
                self.assertFalse(file["discards_reach_host"], str(file))
        self.guest.run("mount -o remount,discard /mnt/loop")
        found = probe()
        for name, reaches in (("/mnt/inner", True), ("/mnt/mirror", True), ("/mnt/nested", False)):
            with self.subTest(filesystem=name, holder="mounted with discard"):
                self.assertIs(found[name]["discards_reach_host"], reaches, str(found[name]))
        # One whose file was reserved on purpose is left as it is.
        blocks = "fallocate -l 64M /mnt/loop/inner && stat -c %b /mnt/loop/inner"
        before = self.guest.run(blocks).output
        inner = probe()["/mnt/inner"]
        self.assertIsNone(inner["discards_reach_host"], str(inner))
        self.assertIn("preallocated", inner["detail"])
        self.assertEqual(self.guest.run("stat -c %b /mnt/loop/inner").output, before)
        self.guest.run("mount -o remount,nodiscard /mnt/loop")

    def test_7_nothing_of_a_key_is_told(self) -> None:
        reply = self.reclaim.run("explain", self.target("luks"))
        table = self.guest.run("dmsetup table --showkeys cryptdata").output
        key = table.split()[4]
        self.assertNotIn(key, reply.stdout)

    def test_8_disks_that_the_guest_does_not_see(self) -> None:
        for target, code in ((USB, "bus-drops-discard"), (CDROM, "not-a-disk")):
            with self.subTest(disk=target):
                found = self.explain(NOTHING_FREED, "--probe", f"deep:{target}")
                self.assertEqual(found[target]["first_culprit"]["code"], code)
                # The guest has no driver for the one, and the other is no disk: nowhere to put a marker, and nothing is made up of it.
                probe = found[target]["probe"]
                if target == CDROM:
                    self.assertIsNone(probe)
                else:
                    self.assertIsNone(probe["discards_reach_host"], str(probe))
                    self.assertIn("no filesystem of the guest", probe["detail"])

    def test_91_checkpoints_are_said(self) -> None:
        cluster = self.guest.disk("cluster")
        self.host.virsh("checkpoint-create-as", "deep", "one", "--diskspec", cluster.target)
        reply = self.reclaim.run("explain", self.target("cluster"))
        explained(reply)
        self.assertEqual(reply.json["domains"][0]["remarks"], ["checkpoints"])
        self.host.virsh("checkpoint-delete", "deep", "one")

    def test_92_qemu_is_asked_when_wanted(self) -> None:
        def log() -> str:
            return "".join(path.read_text(errors="replace") for path in self.host.root.rglob("deep.log"))

        self.judge("mute", NOTHING_FREED)
        self.assertIn("is tainted: custom", log())  # <qemu:override>
        self.assertNotIn("custom-monitor", log())
        self.assertEqual(self.judge("mute", NOTHING_FREED, "--ask-qemu")["first_culprit"]["code"], "device-discard-off")
        self.assertIn("custom-monitor", log())
        (bus,) = [layer for layer in self.judge("plain", DONE, "--ask-qemu")["layers"] if layer["layer"] == "bus"]
        self.assertIn("QEMU says that the device takes discards", bus["detail"])


class Definition(HostTestCase):
    """What the definition says, now and at the next start; who cannot be asked. One story as well."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = Guest(
            cls.host, "old", machine=OLD_MACHINE, agent=AGENT,
            disks=[Disk("blk", size=SIZE, discard="unmap"), Disk("scsi", size=SIZE, bus="scsi")],
        )
        cls.guest.start()

    def culprits(self, status: int, *words: str) -> dict[str, str | None]:
        reply = self.reclaim.run("explain", *words, "old", seconds=300)
        self.assertEqual(reply.status, status, str(reply))
        found = explained(reply)
        return {
            disk.name: (found[disk.target]["first_culprit"] or {}).get("code") for disk in self.guest.disks
        }

    def agent_of(self, domain: str) -> str | None:
        reply = self.reclaim.run("explain", domain)
        explained(reply)
        return reply.json["domains"][0]["agent"]

    def layer(self, name: str, disk: Disk) -> dict[str, Any]:
        found = explained(self.reclaim.run("explain", "old"))
        return next(layer for layer in found[disk.target]["layers"] if layer["layer"] == name)

    def test_1_old_machine_type(self) -> None:
        reply = self.reclaim.run("explain", "--probe", "old", seconds=300)
        self.assertEqual(reply.status, NOTHING_FREED, str(reply))
        for disk, code in zip(self.guest.disks, ("machine-too-old", "discard-ignored"), strict=True):
            shown = explained(reply)[disk.target]
            self.assertEqual(shown["first_culprit"]["code"], code, str(shown))
            self.assertEqual(shown["probe"]["discards_reach_host"], False, str(shown))

    def test_2_a_power_cycle_is_pending(self) -> None:
        apply = self.reclaim.run("migrate", "apply", "old")
        self.assertEqual(apply.status, DONE, str(apply))
        self.assertEqual(self.culprits(NOTHING_FREED), {"blk": "power-cycle-pending", "scsi": "power-cycle-pending"})

    def test_3_after_it_all_is_well(self) -> None:
        self.guest.power_cycle()
        self.assertEqual(self.culprits(DONE, "--probe"), {"blk": None, "scsi": None})

    def test_4_a_definition_that_will_be_worse(self) -> None:
        self.host.define(self.guest.saved_xml().replace("discard='unmap'", "discard='ignore'"))
        self.assertEqual(self.culprits(DONE), {"blk": None, "scsi": None})
        found = explained(self.reclaim.run("explain", "old"))
        for disk in found.values():
            self.assertIn("definition-pending", remarks_of(disk))

    def test_5_an_agent_that_cannot_be_asked(self) -> None:
        self.assertIsNone(self.agent_of("old"))
        self.guest.pause()
        self.assertEqual(self.agent_of("old"), "paused")
        self.guest.resume()
        self.guest.run('kill -STOP "$(vr-agent pid)"')
        self.assertEqual(self.agent_of("old"), "agent-silent")
        self.guest.run('kill -CONT "$(vr-agent pid)"')
        self.assertIsNone(self.agent_of("old"))
        # Beside it are those of storages, which probes have taken.
        (lock,) = (path for path in self.host.directory.rglob("*.lock") if not path.name.startswith("storage-"))
        with open(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.assertEqual(self.agent_of("old"), "busy")
        lock.unlink()
        lock.mkdir()
        self.assertEqual(self.agent_of("old"), "agent-failed")
        lock.rmdir()
        self.guest.run("vr-agent stop")
        # The embedded driver was not there to see it, and may begin with what it knew.
        wait_for("the channel to be disconnected", lambda: self.agent_of("old") == "agent-not-connected", seconds=30)

    def test_6_no_way_to_an_agent(self) -> None:
        for ports, code in (((), "no-controller"), ((QEMU_GA_PORT,), "no-port")):
            with self.subTest(code=code):
                guest = Guest(self.host, code, ports=ports, disks=[Disk("only", size=SIZE)], memory_mib=256)
                guest.start(wait=False)
                self.assertEqual(self.agent_of(code), code)
                guest.destroy()

    def test_7_off(self) -> None:
        self.guest.shutdown()
        self.assertEqual(self.culprits(NOTHING_FREED), {"blk": "discard-ignored", "scsi": "discard-ignored"})
        self.assertEqual(self.agent_of("old"), "not-running")
        self.assertEqual(self.reclaim.run("explain", "--probe", "old").status, REFUSED)

    def test_8_images_of_which_nothing_is_known(self) -> None:
        disk = self.guest.disk("blk")
        kept = disk.path.with_suffix(".kept")
        disk.path.rename(kept)
        self.assertEqual(self.layer("image", disk)["reasons"], ["image-missing"])
        disk.path.mkdir()
        self.assertEqual(self.layer("image", disk)["reasons"], ["image-unreadable"])
        disk.path.rmdir()
        kept.rename(disk.path)
        source = f"<source protocol='nbd' name='x'><host transport='unix' socket='{self.space.path}/nbd'/></source>"
        xml = self.guest.saved_xml().replace("type='file' device='disk'", "type='network' device='disk'")
        self.host.define(re.sub(r"<source file=[^>]*/>", source, xml))
        self.assertEqual(self.layer("image", disk)["reasons"], ["no-local-image"])


class Table(HostTestCase):
    """After the others, by its name."""

    def test_every_code_of_a_chain_is_made_here_or_listed(self) -> None:
        codes = self.reclaim.run("explain", "--codes").json["codes"]
        wanted: dict[str, set[str]] = {"culprit": set(), "unknown": set(), "remark": set(), "never": set()}
        for code in codes:
            wanted[code["in_chain"]].add(code["code"])
        listed = set(NOT_MADE_HERE)
        self.assertEqual(wanted["culprit"] - SAID["first"], listed & wanted["culprit"])
        self.assertEqual(wanted["unknown"] - SAID["unknown"], listed & wanted["unknown"])
        self.assertEqual(wanted["remark"] - SAID["remark"], listed & wanted["remark"])
        self.assertEqual(listed & wanted["never"], set())
        self.assertLessEqual(listed, {code["code"] for code in codes})
        self.assertEqual(SAID["first"] - wanted["culprit"], set())


if __name__ == "__main__":
    bedpath.require_bed(*PROGRAMS, "mkfs.btrfs", "mksquashfs")
    PROGRAM, AGENT = built("virt-reclaim", "virt-reclaim-agent")
    main(one_story=True)
