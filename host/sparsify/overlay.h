// A copy of an image without what its guest has free, made without writing zeros: a nameless
// overlay over the image, in which the free clusters are marked as zero, and qemu-img, which copies
// what is left. The image itself is only read.
#ifndef VIRT_RECLAIM_HOST_SPARSIFY_OVERLAY_H_
#define VIRT_RECLAIM_HOST_SPARSIFY_OVERLAY_H_

#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "host/sparsify/sparsify.h"

namespace virt_reclaim::sparsify {

inline constexpr char kQemuImg[] = "/usr/bin/qemu-img";

// One thread. What it writes is gone with it, however this process ends: the file has no name.
class Overlay {
 public:
  // Over `image` (any format QEMU reads, said in `format`), in `directory`: some MiB of metadata.
  // FailedPrecondition: qemu-img cannot, with its words.
  static absl::StatusOr<Overlay> Make(const std::string& image, const std::string& format,
                                      const std::string& directory, const std::stop_token& stop);

  // A path at which children of this process can open it: qcow2.
  const std::string& path() const { return path_; }

  // Reads the free maps of what the guest sees, and marks as zero what is free. The result has one
  // disk, of which nothing is measured. Errors as those of Sparsify.
  absl::StatusOr<SparsifyResult> ZeroFree(const SparsifyOptions& options,
                                          const ProgressCallback& progress,
                                          const std::stop_token& stop);

  struct Output {
    std::string path;
    std::string format;
    std::string options;  // of qemu-img's -o; may be empty
    bool compress = false;
  };
  // Copies what is left. FailedPrecondition: qemu-img cannot, with its words; then `output.path`
  // may hold a part.
  absl::Status Convert(const Output& output, const std::stop_token& stop) const;

 private:
  Overlay(UniqueFd file, std::string path) : file_(std::move(file)), path_(std::move(path)) {}
  UniqueFd file_;
  std::string path_;
};

}  // namespace virt_reclaim::sparsify

#endif  // VIRT_RECLAIM_HOST_SPARSIFY_OVERLAY_H_
