// A time of day in which something may begin: "01:00-05:00". Pure.
#ifndef VIRT_RECLAIM_HOST_MODEL_DAILY_WINDOW_H_
#define VIRT_RECLAIM_HOST_MODEL_DAILY_WINDOW_H_

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace virt_reclaim {

struct DailyWindow {
  int begin = 0;  // minutes after midnight
  int end = 0;    // not included; before `begin`: of the next day
};

// InvalidArgument: not "HH:MM-HH:MM", or no time at all in it.
absl::StatusOr<DailyWindow> ParseDailyWindow(absl::string_view text);

bool IsOpen(const DailyWindow& window, absl::Time now, absl::TimeZone zone);

// When it opens next: `now` when it is open.
absl::Time BeginOf(const DailyWindow& window, absl::Time now, absl::TimeZone zone);

// When a window that is open at `now` closes.
absl::Time EndOf(const DailyWindow& window, absl::Time now, absl::TimeZone zone);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_DAILY_WINDOW_H_
