// What the internal snapshots of a qcow2 image keep on the host: what deleting one of them, or all,
// would free. Source: QEMU, docs/interop/qcow2.txt.
//
// The image is untrusted: each number from it has its bound, and anything odd is an error, as what
// is not known must not look like nothing.
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_SNAPSHOT_SPACE_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_SNAPSHOT_SPACE_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/range.h"
#include "host/punch/qcow2_clusters.h"

namespace virt_reclaim::sparsify {

struct SnapshotSpace {
  std::string id;           // "1"; the image's word, not printable
  std::string name;         // likewise
  uint64_t only_bytes = 0;  // on the host, that nothing but this snapshot refers to
};

struct SnapshotSpaces {
  std::vector<SnapshotSpace> snapshots;  // as in the image
  uint64_t all_bytes = 0;                // that only snapshots refer to, one or several
};

// `data`: where the file has storage, sorted. InvalidArgument: damaged, no qcow2 image, or one
// whose data is in another file; ResourceExhausted: more than 1,024 snapshots, 262,144 L2 tables, 1
// GiB of them, or 67 million clusters. Pure but for `read`.
absl::StatusOr<SnapshotSpaces> FindSnapshotSpace(const punch::ReadBytes& read, uint64_t file_bytes,
                                                 std::span<const Range> data);

// The same of the file `path`, opened for reading. Any thread; blocks for as long as its tables
// take to be read.
absl::StatusOr<SnapshotSpaces> ReadSnapshotSpace(const std::string& path);

// "deleting 'before' (1) would free 24 MiB, 'late' (2) 1 MiB, all of them 30 MiB": those that free
// most. Printable.
std::string DescribeSnapshotSpace(const SnapshotSpaces& spaces);

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_SNAPSHOT_SPACE_H_
