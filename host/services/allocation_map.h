// Which parts of a disk its image has storage for. Only ever an estimate: the guest goes on
// writing. Any thread; the calling one blocks.
#ifndef VIRT_RECLAIM_HOST_SERVICES_ALLOCATION_MAP_H_
#define VIRT_RECLAIM_HOST_SERVICES_ALLOCATION_MAP_H_

#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/range.h"
#include "host/model/facts.h"

namespace virt_reclaim {

// Of this image alone, not of its backing files: sorted, disjoint ranges of the disk. A raw file by
// FIEMAP, or SEEK_DATA where the filesystem has none, without making the kernel write anything;
// other formats by qemu-img. Unimplemented: a block device, no qemu-img.
absl::StatusOr<std::vector<Range>> ReadAllocationMap(const ImageFile& image,
                                                     const std::stop_token& stop);

// What `qemu-img map --output=json` printed of an image without its backing file.
absl::StatusOr<std::vector<Range>> ParseQemuMap(absl::string_view json);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_ALLOCATION_MAP_H_
