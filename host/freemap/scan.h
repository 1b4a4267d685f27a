// All disks of one domain (or one image file) in, what may be given back out: the worker's whole
// job, and what its parent gets. Nothing here opens or writes anything.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_SCAN_H_
#define VIRT_RECLAIM_HOST_FREEMAP_SCAN_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "host/freemap/byte_source.h"
#include "host/freemap/free_list.h"
#include "host/freemap/readers.h"
#include "host/freemap/refusal.h"

namespace virt_reclaim::freemap {

// Something that was found, and whether its free space is known.
struct Filesystem {
  uint32_t disk = 0;    // index of the disk it lies on
  uint64_t offset = 0;  // bytes, on that disk: where its container begins
  uint64_t length = 0;  // of the container
  bool mapped = false;  // LVM: its pieces lie anywhere, on any disk; offset and length are 0
  std::string place;    // "disk", "partition 2", "web/root"
  std::string type;     // as libblkid names it; empty: unknown
  FilesystemFacts facts;
  Refusal refusal = Refusal::kNone;
  std::string reason;          // the sentence to a refusal
  uint64_t free_bytes = 0;     // 0 when refused
  uint64_t dropped_bytes = 0;  // of these, in runs too short or too many to be listed
  bool operator==(const Filesystem&) const = default;
};

// Free runs of one filesystem on one disk.
struct FreeRuns {
  uint32_t filesystem = 0;  // index
  uint32_t disk = 0;
  std::vector<Extent> extents;  // bytes on the disk; sorted, disjoint
  bool operator==(const FreeRuns&) const = default;
};

struct ScanResult {
  std::vector<Filesystem> filesystems;
  std::vector<FreeRuns> runs;
};

inline constexpr size_t kMaxDisks = 64;
inline constexpr size_t kMaxFilesystems = 4096;

// Never fails as a whole: what cannot be read is refused in its own line. `scratch`: as
// ProbeSignature has it. One thread.
ScanResult ScanDisks(std::span<const ByteSource* const> disks, const ReadOptions& options,
                     int scratch = -1);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_SCAN_H_
