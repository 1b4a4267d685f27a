"""`punch` beside a real QEMU: with --live on XFS while the guest writes; and a domain that starts in the middle of a punch, on XFS and
ext4."""

from __future__ import annotations

import bedpath

from vrtest import Disk, Guest, HostTestCase, allocation, built, main, mount_file, move_to, wait_for

MIB = 1 << 20
DOMAIN = "web"
DONE, DONE_FOR_NOTHING, REFUSED, INTERRUPTED = 0, 4, 5, 130
ROUNDS = 4
# Known data over zeroes and zeroes over data, in place: what punch finds zero is data a moment later. Each file is compared with
# what was written last, as it comes from the disk.
WRITER = """
for i in 0 1 2 3; do dd if=/dev/urandom of=/known-$i bs=1000000 count=1; done
for f in 0 1 2 3 4 5 6 7; do dd if=/dev/zero of=/mnt/xfs/$f bs=1000000 count=1; done
echo 0 >/rounds
cat >/writer <<'END'
round=0
while [ ! -e /stop ]; do
  for f in 0 1 2 3 4 5 6 7; do
    dd if=/dev/zero of=/mnt/xfs/$f bs=1000000 count=1 conv=notrunc,fsync
    dd if=/known-$(((round + f) % 4)) of=/mnt/xfs/$f bs=1000000 count=1 conv=notrunc,fsync
  done
  echo 3 >/proc/sys/vm/drop_caches
  for f in 0 1 2 3 4 5 6 7; do cmp /known-$(((round + f) % 4)) /mnt/xfs/$f || echo "round $round, file $f" >>/lost; done
  for f in 0 1 2 3 4 5 6 7; do dd if=/dev/zero of=/mnt/xfs/$f bs=1000000 count=1 conv=notrunc,fsync; done
  round=$((round + 1))
  echo $round >/rounds.new && mv /rounds.new /rounds
done
touch /ended
END
sh /writer >/writer.log 2>&1 &
"""
# For the punches of an image whose guest is off.
FILL = """
set -e
for dir in /mnt/*; do
  dd if=/dev/urandom of=$dir/kept bs=1000000 count=3 2>/dev/null
  dd if=/dev/zero of=$dir/zeroes bs=1000000 count=60 2>/dev/null
done
sync
cat /mnt/*/kept | md5sum
"""


class PunchLive(HostTestCase):
    """The methods are one story and run in the order of their names."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.guest = Guest(cls.host, DOMAIN, disks=[Disk("xfs", size=256 * MIB), Disk("ext4", size=256 * MIB)])
        # Each on a filesystem of its kind on the host.
        cls.images = {
            disk.name: move_to(mount_file(cls.space, f"storage-{disk.name}", disk.name, 600 * MIB), disk.path) for disk in cls.guest.disks
        }
        cls.guest.start()

    def test_1_while_the_guest_writes(self) -> None:
        path = str(self.images["xfs"])
        reply = self.reclaim.run("punch", path)
        self.assertEqual(reply.status, REFUSED, str(reply))
        self.assertEqual(reply.json["files"][0]["reasons"], ["image-in-use"])
        self.guest.run(WRITER)
        punched = runs = 0
        while self.rounds() < ROUNDS:
            reply = self.reclaim.run("punch", "--live", path)
            # What came free the guest may have taken again meanwhile.
            self.assertIn(reply.status, (DONE, DONE_FOR_NOTHING), str(reply))
            self.assertEqual(reply.json["files"][0]["way"], "atomic")
            punched += reply.json["total"]["punched_bytes"]
            runs += 1
        self.guest.run("touch /stop; while [ ! -e /ended ]; do sleep 0.1; done")
        print(f"{runs} runs of punch punched {punched} bytes under the guest's {self.rounds()} rounds")
        self.assertEqual(self.guest.run("cat /lost 2>/dev/null || true").output, "", "lost under punch --live")
        self.assertGreater(punched, MIB)
        log = self.guest.run("cat /writer.log").output
        self.assertNotIn("error", log.lower())

    def test_2_elsewhere_live_is_refused(self) -> None:
        reply = self.reclaim.run("punch", "--live", str(self.images["ext4"]))
        self.assertEqual(reply.status, REFUSED, str(reply))
        self.assertEqual(reply.json["files"][0]["reasons"], ["image-refused"])

    def test_3_a_domain_that_starts_in_the_middle(self) -> None:
        kept = self.guest.run(FILL, seconds=600).output
        for kind, image in self.images.items():
            with self.subTest(filesystem=kind):
                self.guest.shutdown()
                before = allocation(image)
                with self.reclaim.start("punch", "--max-rate", "2M", str(image)) as punch:
                    wait_for("the first holes", lambda: allocation(image) < before, seconds=60, pause=0.05)
                    self.guest.start(wait=False)
                    if kind == "xfs":
                        self.assertIsNone(punch.poll(), "nothing is held there: it goes on, for half a minute")
                        punch.terminate()
                    out, err = punch.communicate(timeout=120)
                self.assertEqual(punch.returncode, INTERRUPTED if kind == "xfs" else REFUSED, out + err)
                if kind == "ext4":
                    self.assertIn('"interrupted": true', out)
                self.guest.wait_until_up()
                self.assertEqual(self.guest.run("cat /mnt/*/kept | md5sum").output, kept)
                self.assertEqual(self.guest.run("tr -d '\\0' </mnt/" + kind + "/zeroes | wc -c").output.strip(), "0")
        self.guest.shutdown()
        for disk in self.guest.disks:
            disk.check()

    def rounds(self) -> int:
        return int(self.guest.run("cat /rounds").output)


if __name__ == "__main__":
    bedpath.require_bed("mkfs.xfs", "mkfs.ext4", "e2fsck")
    built("virt-reclaim")
    main(one_story=True)
