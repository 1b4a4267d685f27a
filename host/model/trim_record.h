// What a trim of a domain came to, as it is remembered. Plain values.
#ifndef VIRT_RECLAIM_HOST_MODEL_TRIM_RECORD_H_
#define VIRT_RECLAIM_HOST_MODEL_TRIM_RECORD_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace virt_reclaim {

struct TrimRecordDisk {
  std::string target, image;
  std::optional<uint64_t> trimmed;     // the guest's word
  std::optional<int64_t> freed;        // measured
  std::optional<uint64_t> allocation;  // after it
  bool operator==(const TrimRecordDisk&) const = default;
};

// Where a trim that was cut short ended.
struct TrimRecordPosition {
  std::string mount_point;
  std::string uuid;     // of the filesystem there; empty: not known
  uint64_t offset = 0;  // bytes, in the filesystem
  bool after = false;   // it was trimmed to its end
  bool operator==(const TrimRecordPosition&) const = default;
};

struct TrimRecord {
  absl::Time began;
  absl::Duration took;
  std::string way;                         // "agent"
  std::string status;                      // of its outcome: "done"
  bool whole = false;                      // every filesystem, from its beginning to its end
  bool complete = false;                   // `whole`, or what earlier trims had left of it
  std::optional<TrimRecordPosition> next;  // where the next trim goes on; absent: at the beginning
  std::optional<uint64_t> expected;
  uint64_t trimmed = 0;
  std::optional<int64_t> freed;
  std::vector<TrimRecordDisk> disks;
  bool operator==(const TrimRecord&) const = default;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_TRIM_RECORD_H_
