#include "host/model/threshold.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/byte_size.h"
#include "base/escape.h"
#include "base/status.h"

namespace virt_reclaim {

absl::StatusOr<Threshold> ParseThreshold(absl::string_view text) {
  Threshold threshold;
  absl::string_view number = text;
  if (!absl::ConsumeSuffix(&number, "%")) {
    VR_ASSIGN_OR_RETURN(threshold.bytes, ParseByteSize(text));
    return threshold;
  }
  if (absl::SimpleAtod(number, &threshold.percent) && threshold.percent >= 0 &&
      threshold.percent <= 100)
    return threshold;
  return absl::InvalidArgumentError(absl::StrCat("'", Printable(text), "' is no percentage"));
}

}  // namespace virt_reclaim
