// MBR with its extended partitions, and GPT, read strictly: a table that is wrong anywhere is no
// table, and the whole disk is in use. What lies between partitions is nobody's and stays. Pure but
// for the reads; any thread.
#ifndef VIRT_RECLAIM_HOST_FREEMAP_PARTITION_TABLE_H_
#define VIRT_RECLAIM_HOST_FREEMAP_PARTITION_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "host/freemap/byte_source.h"

namespace virt_reclaim::freemap {

inline constexpr size_t kMaxPartitions = 256;

struct Partition {
  uint32_t number = 0;  // as the kernel names it: the 5 of sda5
  uint64_t offset = 0;  // bytes
  uint64_t length = 0;
  std::string in_use;  // not empty: its type alone says that nothing may be looked for in it
  bool operator==(const Partition&) const = default;
};

// The partitions of `disk`, sorted by offset, disjoint, inside it; extended partitions themselves
// left out. `table` is libblkid's word for what is there: "dos", "gpt" or "PMBR", else
// Unimplemented.
absl::StatusOr<std::vector<Partition>> ReadPartitionTable(const ByteSource& disk,
                                                          absl::string_view table);

}  // namespace virt_reclaim::freemap

#endif  // VIRT_RECLAIM_HOST_FREEMAP_PARTITION_TABLE_H_
