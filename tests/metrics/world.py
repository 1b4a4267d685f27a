"""A hypervisor for the real program: libvirt's QEMU driver in a directory of its own, with domains of hostile names that are off,
images that are real files, and a history of trims."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from xml.sax.saxutils import escape

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from vrtest.host import EmbedHost  # noqa: E402

GIB = 1 << 30
DAY = 86400
# libvirt takes any name without a slash and a newline.
HOSTILE = "<script>document.title='gotcha'<img src=x onerror=alert(1)>\"'& \\x"
NAMES = ["web", HOSTILE, "\N{RIGHT-TO-LEFT OVERRIDE}txet", "long-" + "n" * 200]
DOMAIN = """<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory>65536</memory>
<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><devices><disk type='file' device='disk'><driver name='qemu' type='raw'/>
<source file='{image}'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""


def uuid_of(index: int) -> str:
    return f"11111111-2222-3333-4444-{index:012}"


class World:
    """Below `directory`: the definitions, images and the state of virt-reclaim."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.host = EmbedHost(directory)
        for index, name in enumerate(NAMES):
            image = directory / f"{index}.raw"
            with image.open("wb") as file:
                file.truncate(GIB)
                file.write(b"x" * (1 << 20) * (index + 1))
            self.host.define(DOMAIN.format(name=escape(name), uuid=uuid_of(index), image=image))
        self.uri = self.host.uri
        self.state = directory / "state"
        self._remember_trims()

    def command(self, program: str, *words: str, uri: str = "") -> list[str]:
        return [program, "-c", uri or self.uri, "--state-dir", str(self.state), "--run-dir", str(self.directory / "run"), *words]

    def _remember_trims(self) -> None:
        """Of the first two domains, once a week: what their images grew by in between came back but for a part."""
        place = "".join(c if c.isascii() and c.isalnum() or c in "-." else f"%{ord(c):02X}" for c in self.uri)
        if len(place) > 224:
            raise AssertionError("the directory is too long for this test")
        history = self.state / "history" / place
        history.mkdir(parents=True)
        now = int(time.time())
        for index in range(2):
            trims = []
            for week in range(8, 0, -1):
                began = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now - week * 7 * DAY))
                after, freed = (9 - week) * (100 << 10), 300 << 10
                disk = {"target": "vda", "image": str(self.directory / f"{index}.raw"), "trimmed_bytes": freed,
                        "freed_bytes": freed, "allocation_bytes": after}
                trims.append({"began": began, "seconds": 12.5, "way": "agent", "status": "done", "whole": True,
                              "expected_bytes": freed, "trimmed_bytes": freed, "freed_bytes": freed, "disks": [disk]})
            text = json.dumps({"schema_version": 1, "domain": f"d{index}", "trims": trims})
            (history / f"{uuid_of(index)}.json").write_text(text)
