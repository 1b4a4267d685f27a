// The superblock and allocation group headers of XFS, as far as the free map needs them. Source:
// the kernel's fs/xfs/libxfs/xfs_format.h, and "XFS Algorithms & Data Structures". Pure.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_XFS_FORMAT_H_
#define VIRT_RECLAIM_HOST_FREEMAP_XFS_FORMAT_H_

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "host/freemap/byte_source.h"
#include "host/freemap/bytes.h"
#include "host/freemap/readers.h"

namespace virt_reclaim::freemap {

struct XfsGeometry {
  bool v5 = false;
  std::array<uint8_t, 16> uuid = {};       // what the log carries
  std::array<uint8_t, 16> meta_uuid = {};  // what v5 metadata carries
  uint32_t block_bytes = 0;
  uint32_t block_log = 0;
  uint32_t sector_bytes = 0;
  uint64_t blocks = 0;     // of the filesystem
  uint32_t ag_blocks = 0;  // of each group but the last
  uint32_t ag_count = 0;
  uint32_t ag_block_log = 0;
  uint64_t log_start = 0;  // group << ag_block_log | block
  uint32_t log_blocks = 0;
  uint64_t root_inode = 0;
  uint32_t inode_log = 0;    // inodes in a block, log2
  uint64_t free_blocks = 0;  // the superblock's count

  uint64_t ByteOf(uint32_t group, uint64_t block) const {
    return (uint64_t{group} * ag_blocks + block) << block_log;
  }
  uint64_t GroupBlocks(uint32_t group) const {
    return group + 1 < ag_count ? ag_blocks : blocks - uint64_t{ag_blocks} * (ag_count - 1);
  }
};

// Reads the first superblock and judges it: shape, checksum, state, features. The state comes
// first, also that of the log where a feature is not known: its refusal holds for every engine.
absl::StatusOr<XfsGeometry> ReadXfsSuperblock(const ByteSource& source, const ReadOptions& options,
                                              FilesystemFacts& facts);

// OK when the log ends with an unmount record, so that nothing waits to be replayed: the rule of
// the kernel's xlog_find_tail (fs/xfs/xfs_log_recover.c). Reads a block of each MiB of the log, and
// 9 MiB around its end.
absl::Status CheckXfsLogClean(const ByteSource& source, const XfsGeometry& geometry);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_XFS_FORMAT_H_
