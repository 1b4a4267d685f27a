// The boot region of exFAT. Source: Microsoft's "exFAT file system specification" 1.00, section 3.
// Any thread.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_EXFAT_BOOT_H_
#define VIRT_RECLAIM_HOST_FREEMAP_EXFAT_BOOT_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "host/freemap/byte_source.h"
#include "host/freemap/fat_clusters.h"
#include "host/freemap/readers.h"

namespace virt_reclaim::freemap {

struct ExfatGeometry {
  uint64_t fat_offset = 0;  // bytes
  uint64_t fat_bytes = 0;
  uint32_t root = 0;  // cluster
  ClusterHeap heap;
};

// Judges both copies, their checksums and the state, and fills in `facts`.
absl::StatusOr<ExfatGeometry> ReadExfatBoot(const ByteSource& source, FilesystemFacts& facts);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_EXFAT_BOOT_H_
