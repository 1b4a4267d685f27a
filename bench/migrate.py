"""A fleet migrated by a saved plan, beside the how-to: each definition dumped, edited by sed, and defined again.

500 domains that are off, in libvirt's embedded driver: what is timed is the program and libvirt, not guests. The peer does
less: no preflight, no old definition kept, no journal, no read-back, and one virsh for all.
"""

from __future__ import annotations

import subprocess
import time
import uuid
from pathlib import Path

from benchlib import MIB, Row, built, median, require_programs
from vrtest import EmbedHost, VirtReclaim, Workspace
from vrtest.guest import OLD_MACHINE

DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>128</memory>
  <os><type arch='x86_64' machine='{machine}'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/><source file='{image}'/><target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""
PROMISED_SECONDS = 30.0
EDIT = ("-e", "s/pc-i440fx-[0-9.]*/pc-i440fx-4.0/", "-e", "s/type='raw'\\/>/type='raw' discard='unmap'\\/>/")


def run(*, smoke: bool, rounds: int) -> list[Row]:
    require_programs("virsh", "qemu-system-x86_64", "sed")
    program = built("virt-reclaim")
    count = 20 if smoke else 500
    plans: list[float] = []
    applies: list[float] = []
    peers: list[float] = []
    with Workspace() as space:
        host = EmbedHost(space.path)
        names = [f"vm-{number:03}" for number in range(count)]
        for name in names:
            image = space.path / f"{name}.raw"
            with open(image, "wb") as file:
                file.truncate(64 * MIB)
            text = DOMAIN.format(name=name, uuid=uuid.uuid4(), machine=OLD_MACHINE, image=image)
            (space.path / f"{name}.xml").write_text(text)
        for number in range(rounds):
            turns = [lambda: peers.append(by_hand(host, space.path, names)), lambda: ours(program, host, space.path, plans, applies)]
            for turn in turns if number % 2 == 0 else reversed(turns):
                virsh(host, [f"define {space.path / name}.xml" for name in names])
                turn()
                check(host, names)
    whole = [plan + apply for plan, apply in zip(plans, applies)]
    return [
        Row(f"migrate plan of {count} domains", f"{median(plans):.2f} s", rounds=rounds),
        Row(f"migrate plan and apply of {count} domains / dumpxml, sed, define", f"{median(whole):.2f} s", f"{median(peers):.2f} s",
            [mine / other for mine, other in zip(whole, peers)], rounds, limit=PROMISED_SECONDS, value=median(whole)),
    ]


def ours(program: Path, host: EmbedHost, directory: Path, plans: list[float], applies: list[float]) -> None:
    reclaim = VirtReclaim(program, host)
    plan = directory / "plan.json"
    for times, words in ((plans, ("plan", "--assume", "--save", str(plan))), (applies, ("apply", "--plan", str(plan), "--batch", "10%"))):
        begin = time.monotonic()
        reply = reclaim.run("migrate", *words, seconds=600)
        times.append(time.monotonic() - begin)
        if reply.status != 0:
            raise RuntimeError(f"migrate {words[0]} failed: {str(reply)[:2000]}")


def by_hand(host: EmbedHost, directory: Path, names: list[str]) -> float:
    begin = time.monotonic()
    texts = virsh(host, [f"dumpxml --inactive --security-info {name}" for name in names]).split("</domain>\n")
    paths = [directory / f"{name}.new.xml" for name in names]
    for path, text in zip(paths, texts):
        path.write_text(text.strip() + "\n</domain>\n")
    subprocess.run(["sed", "-i", *EDIT, *map(str, paths)], check=True)
    virsh(host, [f"define {path}" for path in paths])
    return time.monotonic() - begin


def virsh(host: EmbedHost, commands: list[str]) -> str:
    return subprocess.run(
        ["virsh", "-q", "-c", host.uri, "; ".join(commands)], env=host.environment(), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=True, timeout=600,
    ).stdout


def check(host: EmbedHost, names: list[str]) -> None:
    """Both have done it."""
    for name in names:
        text = (host.root / "etc" / "qemu" / f"{name}.xml").read_text()
        if "discard='unmap'" not in text or "pc-i440fx-4.0" not in text:
            raise RuntimeError(f"{name} was not migrated:\n{text}")
