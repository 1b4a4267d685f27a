// Where the drop-in's overlay goes, from --tmp and TMPDIR, and whether there is enough space, with
// virt-sparsify's words.
#ifndef VIRT_RECLAIM_HOST_CLI_VIRT_SPARSIFY_TMP_H_
#define VIRT_RECLAIM_HOST_CLI_VIRT_SPARSIFY_TMP_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "host/services/image_store.h"

namespace virt_reclaim {

struct VirtSparsifyTmp {
  std::string directory;
  std::string prebuilt;  // an overlay that the caller made; empty: one is made in `directory`
  std::string device;    // a block device that was named, and is not needed; else empty
};

// `tmp` is what --tmp says; empty: TMPDIR. Errors have the text to print. Any thread.
absl::StatusOr<VirtSparsifyTmp> ChooseTmp(const std::string& tmp, ImageStore& images);

// What to say when `directory` has less free than `needed` bytes; empty: it has enough, or it is
// not known. Several lines. Any thread.
std::string TooLittleSpace(const std::string& directory, uint64_t needed);

// "950", "1.5K", "40G": as libguestfs's tools print a size in bytes. Pure.
std::string HumanSize(uint64_t bytes);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_VIRT_SPARSIFY_TMP_H_
