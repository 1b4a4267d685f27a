"""What is on disks and is not ours to read (MD, bcache, ZFS, ReFS, APFS, BitLocker): as little of each as libblkid wants to see, checksums and all."""

import struct

MIB = 1 << 20
MD_MAGIC = 0xA92B4EFC
BLOCK_AT = 4096


def md(minor, size):
    """A member of a RAID 1 with metadata 1.0 (at its end), 1.1 or 1.2 (linux/raid/md_p.h)."""
    sector = {0: (size // 512 - 16) // 8 * 8, 1: 0, 2: 8}[minor]
    block = bytearray(256)
    struct.pack_into("<III", block, 0, MD_MAGIC, 1, 0)
    block[16:32] = bytes(range(16))
    struct.pack_into("<iIQII", block, 72, 1, 0, size // 512 - 2064, 0, 2)  # level, layout, size, chunk, disks
    struct.pack_into("<QQQ", block, 128, 2048 if minor else 0, size // 512 - 2064, sector)
    total = sum(struct.unpack("<64I", block))
    struct.pack_into("<I", block, 216, (total & 0xFFFFFFFF) + (total >> 32))
    return [(sector * 512, bytes(block))]


def md_0_90(size):
    return [((size & ~0xFFFF) - 0x10000, struct.pack("<IIII", MD_MAGIC, 0, 90, 0) + bytes(4080))]


def crc64(data):
    """ECMA-182, as bcache has it."""
    value = ~0
    for byte in data:
        value ^= byte << 56
        for _ in range(8):
            value = value << 1 ^ (0x42F0E1EBA9EA3693 if value >> 63 & 1 else 0)
        value &= (1 << 64) - 1
    return ~value & (1 << 64) - 1


def bcache():
    block = bytearray(208)
    struct.pack_into("<QQ", block, 8, 8, 1)  # its own sector, version
    block[24:40] = bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")
    block[40:56] = bytes(range(16))
    struct.pack_into("<Q", block, 0, crc64(block[8:]))
    return [(BLOCK_AT, bytes(block))]


def zfs():
    """Uberblocks of the first label: libblkid wants four."""
    return [(128 * 1024 + number * 1024, struct.pack("<QQQQQ", 0x00BAB10C, 5000, 10 + number, 7, 1_700_000_000)) for number in range(8)]


def apfs():
    block = bytearray(4096)
    struct.pack_into("<QQHHHH4sI", block, 8, 1, 1, 1, 0x8000, 0, 0, b"NXSB", 4096)
    low = high = 0
    for (word,) in struct.iter_unpack("<I", block[8:]):
        low = (low + word) % 0xFFFFFFFF
        high = (high + low) % 0xFFFFFFFF
    first = 0xFFFFFFFF - (low + high) % 0xFFFFFFFF
    struct.pack_into("<II", block, 0, first, 0xFFFFFFFF - (low + first) % 0xFFFFFFFF)
    return [(0, bytes(block))]


def bitlocker():
    """A boot sector, with code where another has a partition table, and the first block of metadata."""
    sector = bytearray(b"\xcc" * 510 + b"\x55\xaa")
    struct.pack_into("<11sHB", sector, 0, b"\xeb\x58\x90-FVE-FS-", 512, 8)
    sector[160:176] = bytes.fromhex("3bd667492e294ad88399f6a339e3d001")
    struct.pack_into("<Q", sector, 176, MIB)
    return [(0, bytes(sector)), (MIB, b"-FVE-FS-" + struct.pack("<HH", 64, 2) + bytes(500))]


def foreign(size):
    """(name, libblkid's name, what to write where) of each, in `size` bytes."""
    return (
        ("MD 0.90", "linux_raid_member", md_0_90(size)), ("MD 1.0", "linux_raid_member", md(0, size)),
        ("MD 1.1", "linux_raid_member", md(1, size)), ("MD 1.2", "linux_raid_member", md(2, size)),
        ("bcache", "bcache", bcache()), ("ZFS", "zfs_member", zfs()), ("ReFS", "ReFS", [(0, b"\0\0\0ReFS\0")]),
        ("APFS", "apfs", apfs()), ("BitLocker", "BitLocker", bitlocker()),
    )
