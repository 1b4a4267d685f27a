// The few header fields of a qcow2 image that tell its size and what it stands on. Source: QEMU,
// docs/interop/qcow2.txt. Pure; the input is untrusted.
#ifndef VIRT_RECLAIM_HOST_SERVICES_QCOW2_HEADER_H_
#define VIRT_RECLAIM_HOST_SERVICES_QCOW2_HEADER_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim {

struct Qcow2Header {
  uint32_t version = 0;
  uint32_t cluster_bits = 0;
  uint64_t virtual_size = 0;   // bytes
  uint32_t snapshots = 0;      // internal ones
  bool external_data = false;  // guest data is in a raw file of its own
  bool data_is_raw = false;    // ... at the guest's offsets
  bool extended_l2 = false;    // each cluster is freed in 32 parts
  bool dirty = false;          // its reference counts want a repair
  bool corrupt = false;        // QEMU found it damaged
  bool encrypted = false;
  bool bitmaps = false;           // persistent ones, which incremental backups stand on
  bool unknown_features = false;  // incompatible ones that are not listed here
  std::string backing_file;       // as written; empty: none
  std::string data_file;          // header extension 0x44415441, as written; empty: not said
  std::string backing_format;     // header extension 0xe2792aca; empty: not said
};

inline constexpr size_t kQcow2HeaderBytes =
    65536;  // one cluster of the default size holds all of it

// `start` is the beginning of the file, up to kQcow2HeaderBytes. InvalidArgument when it is no
// qcow2 image of version 2 or 3.
absl::StatusOr<Qcow2Header> ParseQcow2Header(absl::string_view start);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_QCOW2_HEADER_H_
