// The two CRCs that disks carry. Pure; any thread.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_CHECKSUM_H_
#define VIRT_RECLAIM_HOST_FREEMAP_CHECKSUM_H_

#include <cstdint>

#include "host/freemap/bytes.h"

namespace virt_reclaim::freemap {

// CRC-32C (Castagnoli, RFC 3720), as ext4, XFS and btrfs have it: of `bytes` after those that gave
// `before`. Whole: Crc32c(bytes).
uint32_t Crc32c(Bytes bytes, uint32_t before = 0);

// CRC-32 (IEEE 802.3), as GPT has it.
uint32_t Crc32(Bytes bytes, uint32_t before = 0);

// LVM2's own: the same polynomial as Crc32, begun with 0xf597a6cf and not inverted at the end.
uint32_t LvmCrc(Bytes bytes, uint32_t before = 0xf597a6cf);

// CRC-32C of `bytes` with the four at `field` taken as zero.
uint32_t Crc32cWithout(Bytes bytes, size_t field);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_CHECKSUM_H_
