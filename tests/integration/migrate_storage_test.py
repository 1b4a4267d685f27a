"""What migrate plan says of storage that takes discards and of storage that drops them: real files and real block devices."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import bedpath

from vrtest import HostTestCase, LoopDevice, built, main, mount_without_holes
from vrtest.guest import MIB, OLD_MACHINE

DONE = 0
PUNCHES, CANNOT = "punches", "cannot"


def domain_xml(name: str, image: Path) -> str:
    kind, attribute = ("block", "dev") if image.is_block_device() else ("file", "file")
    return f"""<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>128</memory>
  <os><type arch='x86_64' machine='{OLD_MACHINE}'>hvm</type></os>
  <devices>
    <disk type='{kind}' device='disk'>
      <driver name='qemu' type='raw'/><source {attribute}='{image}'/><target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""


class StorageBelow(HostTestCase):
    images: ClassVar[dict[str, Path]] = {}

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # A loop device has the discards of the filesystem that its file is on.
        for name, directory in ((PUNCHES, cls.space.path), (CANNOT, mount_without_holes(cls.space))):
            file, below = directory / f"{name}.raw", directory / f"{name}-below.raw"
            for path in (file, below):
                with open(path, "wb") as image:
                    image.truncate(64 * MIB)
            loop = LoopDevice(below)
            cls.space.before_close(loop.close)
            cls.images[f"file-{name}"] = file
            cls.images[f"block-{name}"] = loop.path
        for name, image in cls.images.items():
            cls.host.define(domain_xml(name, image))

    def test_only_what_takes_discards_is_changed(self) -> None:
        reply = self.reclaim.run("migrate", "plan", "--assume")
        self.assertEqual(reply.status, DONE, str(reply))
        planned = {domain["name"]: domain for domain in reply.json["domains"]}
        self.assertEqual(planned.keys(), self.images.keys())
        for kind in ("file", "block"):
            changed = planned[f"{kind}-{PUNCHES}"]
            self.assertEqual([change["what"] for change in changed["changes"]], ["discard", "machine"], str(changed))
            self.assertEqual(changed["refusals"], [], str(changed))
            left = planned[f"{kind}-{CANNOT}"]
            self.assertEqual(left["changes"], [], str(left))
            (refusal,) = left["refusals"]
            self.assertEqual((refusal["target"], refusal["reason"]), ("vda", "storage-cannot-punch"))
            # Whom to blame: the file itself, or the device.
            named = str(self.images[f"{kind}-{CANNOT}"]) if kind == "file" else self.images[f"{kind}-{CANNOT}"].name
            self.assertIn(named, refusal["detail"])


if __name__ == "__main__":
    bedpath.require_bed()
    built("virt-reclaim")
    main()
