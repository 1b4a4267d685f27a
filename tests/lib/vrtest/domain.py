"""The XML of a domain of which only the disks matter: it is looked at, or started as an empty QEMU, and never boots."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape, quoteattr


def domain_xml(name: str, *images: tuple[str, Path], discard: str = "") -> str:
    """images: format and path each, as vda, vdb and so on; discard: of each driver, where one is to be said."""
    said = f" discard={quoteattr(discard)}" if discard else ""
    disks = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type={quoteattr(format_)}{said}/><source file={quoteattr(str(path))}/>"
        f"<target dev='vd{chr(ord('a') + number)}' bus='virtio'/></disk>"
        for number, (format_, path) in enumerate(images)
    )
    return (
        f"<domain type='qemu'><name>{escape(name)}</name><memory unit='MiB'>64</memory>"
        f"<os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os><devices>{disks}</devices></domain>"
    )
