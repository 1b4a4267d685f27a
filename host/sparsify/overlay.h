// A copy of an image without what its guest has free, made without writing zeros: a temporary
// overlay over the image, in which the free clusters are marked as zero, and qemu-img, which copies
// what is left. The image itself is only read.
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_OVERLAY_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_OVERLAY_H_

#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/temporary_directory.h"
#include "host/sparsify/image_form.h"
#include "host/sparsify/sparsify.h"

namespace virt_reclaim::sparsify {

// One thread. What it writes goes with it, or with the next overlay in the same directory when this
// process was killed. It has a name, as libguestfs resolves what it is told to open.
class Overlay {
 public:
  // Over `image` (any format QEMU reads, said in `format`), in `directory`: some MiB of metadata.
  // FailedPrecondition: qemu-img cannot, with its words.
  static absl::StatusOr<Overlay> Make(const std::string& image, const std::string& format,
                                      const std::string& directory, const std::stop_token& stop);

  // One that is there, qcow2, and stands on `image`. It gets the marks, and stays.
  // FailedPrecondition: it stands on something else, or qemu-img cannot read it.
  static absl::StatusOr<Overlay> Use(const std::string& overlay, const std::string& image,
                                     const std::stop_token& stop);

  // Absolute; qcow2.
  const std::string& path() const { return path_; }

  // Reads the free maps of what the guest sees, and marks as zero what is free. The result has one
  // disk, of which nothing is measured. Errors as those of Sparsify.
  absl::StatusOr<SparsifyResult> ZeroFree(const SparsifyOptions& options,
                                          const ProgressCallback& progress,
                                          const std::stop_token& stop);

  // Gives it the bitmaps of `image`, which is qcow2: what is marked as zero later counts as
  // changed, as in a trimmed image. FailedPrecondition: qemu-img cannot, with its words.
  absl::Status TakeBitmaps(const std::string& image, const std::vector<ImageBitmap>& bitmaps,
                           const std::stop_token& stop) const;

  struct Output {
    std::string path;
    std::string format;
    std::string options;  // of qemu-img's -o; may be empty
    bool compress = false;
    std::vector<ImageBitmap> bitmaps{};  // that the copy gets; qcow2 only
  };
  // Tries on an empty image whether qemu-img can make such a copy, in `directory`, where nothing
  // stays. FailedPrecondition: it cannot, with its words, or it makes several files, which could
  // not take their names at once. What would touch other files is not tried.
  static absl::Status CheckOutput(const Output& output, const std::string& directory,
                                  const std::stop_token& stop);

  // Copies what is left to a file that takes its name when it is whole and on the disk
  // (copy_target.h). It shares blocks with the image instead, where it can (shared_blocks.h).
  // FailedPrecondition: qemu-img cannot, with its words.
  absl::Status Convert(const Output& output, const std::stop_token& stop) const;

 private:
  Overlay() = default;

  std::optional<TemporaryDirectory> directory_;  // none: it is the caller's
  std::string path_;
  std::string image_;     // what it stands on
  uint64_t cluster_ = 0;  // bytes
};

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_OVERLAY_H_
