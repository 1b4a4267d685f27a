#include "base/duration.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/escape.h"

namespace virt_reclaim {

absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text) {
  absl::Duration duration;
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds)) {
    duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &duration)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", Printable(text), "' is no time: write for example 200ms, 90s or 5m"));
  }
  if (duration < absl::ZeroDuration() || duration > absl::Hours(24 * 30)) {
    return absl::InvalidArgumentError(absl::StrCat("'", Printable(text), "' is out of range"));
  }
  return duration;
}

}  // namespace virt_reclaim
