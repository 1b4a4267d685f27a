#include "host/model/daily_window.h"

#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/civil_time.h"
#include "base/escape.h"

namespace virt_reclaim {
namespace {

constexpr int kMinutesADay = 24 * 60;

std::optional<int> Minutes(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  if (parts.size() != 2) return std::nullopt;
  int numbers[2];
  for (int i = 0; i < 2; ++i) {
    const absl::string_view part = parts[static_cast<size_t>(i)];
    if (part.empty() || part.size() > 2 ||
        !absl::ascii_isdigit(static_cast<unsigned char>(part[0])))
      return std::nullopt;
    if (!absl::SimpleAtoi(part, &numbers[i])) return std::nullopt;
  }
  const int minutes = numbers[0] * 60 + numbers[1];
  if (numbers[1] > 59 || minutes > kMinutesADay) return std::nullopt;
  return minutes;
}

// When clocks show `civil` next. Where they are put back they do so twice.
absl::Time NextAt(absl::CivilMinute civil, absl::Time now, absl::TimeZone zone) {
  const absl::TimeZone::TimeInfo info = zone.At(absl::CivilSecond(civil));
  const bool again = info.kind == absl::TimeZone::TimeInfo::REPEATED && info.pre <= now;
  return again ? info.post : absl::FromCivil(civil, zone);
}

}  // namespace

absl::StatusOr<DailyWindow> ParseDailyWindow(absl::string_view text) {
  const std::vector<absl::string_view> ends = absl::StrSplit(text, '-');
  if (ends.size() == 2) {
    const auto begin = Minutes(ends[0]);
    const auto end = Minutes(ends[1]);
    if (begin && end && *begin != *end && *begin < kMinutesADay) return DailyWindow{*begin, *end};
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "'", Printable(text), "' is no time of day: write for example 01:00-05:00 or 22:30-06:00"));
}

bool IsOpen(const DailyWindow& window, absl::Time now, absl::TimeZone zone) {
  const absl::CivilSecond civil = zone.At(now).cs;
  const int minute = civil.hour() * 60 + civil.minute();
  if (window.begin < window.end) return window.begin <= minute && minute < window.end;
  return window.begin <= minute || minute < window.end;
}

absl::Time BeginOf(const DailyWindow& window, absl::Time now, absl::TimeZone zone) {
  if (IsOpen(window, now, zone)) return now;
  const absl::CivilSecond civil = zone.At(now).cs;
  const absl::CivilDay day(civil);
  const bool tomorrow = civil.hour() * 60 + civil.minute() >= window.begin;
  return NextAt(absl::CivilMinute(tomorrow ? day + 1 : day) + window.begin, now, zone);
}

absl::Time EndOf(const DailyWindow& window, absl::Time now, absl::TimeZone zone) {
  const absl::CivilSecond civil = zone.At(now).cs;
  // Civil time, not 24 hours: a night with a change of clocks has more or fewer.
  const absl::CivilDay day(civil);
  const bool tomorrow =
      window.begin >= window.end && civil.hour() * 60 + civil.minute() >= window.end;
  return NextAt(absl::CivilMinute(tomorrow ? day + 1 : day) + window.end, now, zone);
}

}  // namespace virt_reclaim
