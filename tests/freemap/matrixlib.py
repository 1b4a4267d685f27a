"""How many images of which filesystem a test has judged, and what came free of them: one table at its end, and the least there must be."""

from __future__ import annotations

import sys
from dataclasses import dataclass

MIB = 1 << 20


@dataclass
class Row:
    images: int = 0
    free: int = 0  # bytes, in the guests
    freed: int = 0  # bytes, on the host


def filesystem_of(mkfs):
    """Of a command that makes one: "ext2", "xfs", "FAT16"."""
    program, *options = mkfs.split(" ")
    if program == "mkfs.fat":
        return "FAT" + options[options.index("-F") + 1]
    return {"mkntfs": "NTFS", "mkfs.exfat": "exFAT"}.get(program) or program.removeprefix("mkfs.")


class Matrix:
    def __init__(self):
        self.rows = {}

    def add(self, name, free, freed):
        row = self.rows.setdefault(name, Row())
        row.images, row.free, row.freed = row.images + 1, row.free + free, row.freed + freed

    def total(self):
        rows = self.rows.values()
        return Row(sum(row.images for row in rows), sum(row.free for row in rows), sum(row.freed for row in rows))

    def end(self, least):
        """Prints the table. Whether there are as many images as `least` (name -> images) says: one that got lost fails its test."""
        print(f"\n{'filesystem':<24}{'images':>8}{'MiB free in the guest':>24}{'MiB freed':>12}")
        for name, row in [*sorted(self.rows.items()), ("all", self.total())]:
            print(f"{name:<24}{row.images:>8}{row.free / MIB:>24.1f}{row.freed / MIB:>12.1f}")
        lost = {name: images for name, images in least.items() if self.rows.get(name, Row()).images < images}
        for name, images in lost.items():
            print(f"FAILED: {self.rows.get(name, Row()).images} images of {name}, not {images}", flush=True)
        sys.stdout.flush()
        return not lost
