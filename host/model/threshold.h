// "5G", or "10%" of a whole. Plain value; any thread.
#ifndef VIRT_RECLAIM_HOST_MODEL_THRESHOLD_H_
#define VIRT_RECLAIM_HOST_MODEL_THRESHOLD_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim {

struct Threshold {
  uint64_t bytes = 0;
  double percent = 0;  // of a whole; used when `bytes` is 0

  // Bytes.
  uint64_t Of(uint64_t whole) const {
    return bytes > 0 ? bytes : static_cast<uint64_t>(static_cast<double>(whole) * percent / 100);
  }
};

// InvalidArgument: neither a size (ParseByteSize) nor 0% to 100%.
absl::StatusOr<Threshold> ParseThreshold(absl::string_view text);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_THRESHOLD_H_
