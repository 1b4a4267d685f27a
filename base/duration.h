// Times as people write them, in options and policy files. Pure; any thread.
#ifndef VIRT_RECLAIM_BASE_DURATION_H_
#define VIRT_RECLAIM_BASE_DURATION_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace virt_reclaim {

// "90", "90s", "5m", "200ms", "2h": a bare number is seconds. InvalidArgument for anything else,
// negative times and more than 30 days.
absl::StatusOr<absl::Duration> ParseDuration(absl::string_view text);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_BASE_DURATION_H_
