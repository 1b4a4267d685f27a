"""What Linux's own trim would free of a filesystem that the kernel of this machine does not mount: the map is read as the driver named with
each does, and nothing else is looked at. Each takes the image's bytes and returns runs of bytes, or None where the driver does not mount."""

import struct


def runs_where(free, start, cluster):
    """The clusters of which `free` is true, the first of them at `start`, as runs of bytes."""
    runs = []
    for number, is_free in enumerate(free):
        if not is_free:
            continue
        offset = start + number * cluster
        if runs and sum(runs[-1]) == offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + cluster)
        else:
            runs.append((offset, cluster))
    return runs


def is_power_of_two(number):
    return number > 0 and number & (number - 1) == 0


def zero_bits(bitmap, count):
    return [not bitmap[i >> 3] >> (i & 7) & 1 for i in range(min(count, 8 * len(bitmap)))]


def vfat(image):
    """fs/fat/inode.c: fat_fill_super; fs/fat/fatent.c: fat_trim_fs, which takes each entry of the first FAT that is zero."""
    sector, per_cluster, reserved, fats, root_entries, sectors, media, fat_length = struct.unpack_from("<HBHBHHBH", image, 11)
    sectors_32, fat_length_32 = struct.unpack_from("<I", image, 32)[0], struct.unpack_from("<I", image, 36)[0]
    valid = is_power_of_two(sector) and 512 <= sector <= 4096 and is_power_of_two(per_cluster) and reserved and fats
    if not valid or (media != 0xF0 and media < 0xF8):
        return None
    is_32 = fat_length == 0 and fat_length_32 != 0
    fat_length = fat_length_32 if is_32 else fat_length
    data = reserved + fats * fat_length + (root_entries * 32 + sector - 1) // sector
    clusters = ((sectors or sectors_32) - data) // per_cluster
    bits = 32 if is_32 else 16 if clusters > 0xFF4 else 12
    clusters = min(clusters, fat_length * sector * 8 // bits - 2)
    fat = image[reserved * sector :]
    if clusters <= 0 or (clusters + 2) * bits > 8 * len(fat):
        return None

    def entry(number):
        if bits == 12:
            pair = struct.unpack_from("<H", fat, number + number // 2)[0]
            return pair >> 4 if number & 1 else pair & 0xFFF
        if bits == 16:
            return struct.unpack_from("<H", fat, 2 * number)[0]
        return struct.unpack_from("<I", fat, 4 * number)[0] & 0x0FFFFFFF

    return runs_where([entry(number) == 0 for number in range(2, clusters + 2)], data * sector, per_cluster * sector)


def exfat(image):
    """fs/exfat/super.c: exfat_read_boot_sector, exfat_verify_boot_region; fs/exfat/balloc.c: exfat_load_bitmap, exfat_trim_fs."""
    sector_bits, cluster_bits = image[108], image[109]
    if image[3:11] != b"EXFAT   " or not 9 <= sector_bits <= 12 or sector_bits + cluster_bits > 25:
        return None
    sector = 1 << sector_bits
    checksum = 0
    for at in range(11 * sector):
        if at not in (106, 107, 112):
            checksum = ((checksum << 31 | checksum >> 1) + image[at]) & 0xFFFFFFFF
    if struct.unpack_from("<I", image, 11 * sector)[0] != checksum:
        return None
    fat, _, heap, clusters, root = struct.unpack_from("<5I", image, 80)
    cluster = sector << cluster_bits

    def place(number):
        return heap * sector + (number - 2) * cluster

    seen = set()
    while 2 <= root < clusters + 2 and root not in seen:
        seen.add(root)
        for at in range(place(root), place(root) + cluster, 32):
            if image[at] == 0:
                return None
            if image[at] != 0x81:
                continue
            first, size = struct.unpack_from("<IQ", image, at + 20)
            if not 2 <= first < clusters + 2 or size != (clusters + 7) // 8 or place(first) + size > len(image):
                return None
            return runs_where(zero_bits(image[place(first) : place(first) + size], clusters), place(2), cluster)
        root = struct.unpack_from("<I", image, fat * sector + 4 * root)[0]
    return None


def ntfs(image):
    """fs/ntfs3/super.c: ntfs_init_from_boot; fs/ntfs3/bitmap.c: ntfs_trim_fs, of $Bitmap, the seventh record of the MFT."""
    sector, per_cluster = struct.unpack_from("<HB", image, 11)
    sectors, mft = struct.unpack_from("<QQ", image, 40)
    (record_clusters,) = struct.unpack_from("<b", image, 64)
    if image[3:11] != b"NTFS    " or not is_power_of_two(sector) or not is_power_of_two(per_cluster) or sector < 512:
        return None
    cluster = sector * per_cluster
    size = record_clusters * cluster if record_clusters > 0 else 1 << -record_clusters
    record = bytearray(image[mft * cluster + 6 * size : mft * cluster + 7 * size])
    if record[:4] != b"FILE" or len(record) != size:
        return None
    fixups, count = struct.unpack_from("<HH", record, 4)
    for number in range(1, count):
        end = number * 512
        if end > size or record[end - 2 : end] != record[fixups : fixups + 2]:
            return None
        record[end - 2 : end] = record[fixups + 2 * number : fixups + 2 * number + 2]
    at = struct.unpack_from("<H", record, 20)[0]
    while at + 72 <= size:
        kind, length, non_resident, name = struct.unpack_from("<IIBB", record, at)
        if kind == 0xFFFFFFFF or length < 24:
            return None
        if kind == 0x80 and non_resident and not name:
            bitmap = bytearray()
            for first, clusters in data_runs(bytes(record[at + struct.unpack_from("<H", record, at + 32)[0] : at + length])):
                bitmap += image[first * cluster : (first + clusters) * cluster]
            return runs_where(zero_bits(bitmap, sectors // per_cluster), 0, cluster)
        at += length
    return None


def data_runs(text):
    """The runs of an attribute: first cluster and number of clusters."""
    at, first = 0, 0
    while at < len(text) and text[at]:
        low, high = text[at] & 15, text[at] >> 4
        clusters = int.from_bytes(text[at + 1 : at + 1 + low], "little")
        first += int.from_bytes(text[at + 1 + low : at + 1 + low + high], "little", signed=True)
        if first < 0 or high == 0 or clusters > 1 << 32:
            return
        yield first, clusters
        at += 1 + low + high
