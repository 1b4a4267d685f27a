// The form of a qcow2 image, besides what its guest sees: what a copy keeps of it, and what it
// cannot keep.
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_IMAGE_FORM_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_IMAGE_FORM_H_

#include <cstdint>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim::sparsify {

// A persistent one, which incremental backups stand on.
struct ImageBitmap {
  std::string name;
  uint64_t granularity = 0;  // bytes
  bool enabled = false;      // it notes what is written
  bool operator==(const ImageBitmap&) const = default;
};

struct ImageForm {
  std::vector<std::string> options;  // of qemu-img's -o, as "cluster_size=65536"
  bool compressed = false;           // half of its clusters, or more
  // "compression (of 1 of 10 clusters)": what a copy that is not compressed loses all the same.
  std::string some_compression;
  std::vector<ImageBitmap> bitmaps;  // whole ones
  std::vector<std::string> lost;     // "2 internal snapshots": what no copy keeps
  // What only another qcow2 image has.
  std::vector<std::string> only_qcow2;
};

// `info` and `check` are what `qemu-img info` and `qemu-img check` print with --output=json;
// `check` may be anything else: then nothing is known of compression. InvalidArgument: `info` is
// not of a qcow2 image. Pure; texts are printable but for the names of bitmaps.
absl::StatusOr<ImageForm> ParseImageForm(absl::string_view info, absl::string_view check);

// Of the image at the absolute `path`, qcow2. Reads its tables: seconds for some TB. Errors as
// RunQemuImg. Any thread; blocks.
absl::StatusOr<ImageForm> ReadImageForm(const std::string& path, const std::stop_token& stop);

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_IMAGE_FORM_H_
