#include "host/cli/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/byte_size.h"
#include "base/escape.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kEvery = absl::Milliseconds(100);
constexpr size_t kBarWidth = 20;

void WriteOnce(int fd, absl::string_view text) {
  static_cast<void>(!write(fd, text.data(), text.size()));
}

size_t Columns(int fd) {
  winsize size{};
  return ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

ProgressLine::ProgressLine(int fd) : fd_(fd), enabled_(isatty(fd) == 1) {}
ProgressLine::~ProgressLine() { Clear(); }

void ProgressLine::Show(const DomainSummary& domain, const GuestTrimProgress& progress) {
  if (!enabled_) return;
  const std::lock_guard lock(mutex_);
  const absl::Time now = absl::Now();
  if (now - last_ < kEvery) return;
  last_ = now;
  const double fraction = progress.size == 0
                              ? 0
                              : std::min(1.0, static_cast<double>(progress.position) /
                                                  static_cast<double>(progress.size));
  const auto filled = static_cast<size_t>(fraction * kBarWidth);
  std::string line = absl::StrCat(
      Printable(domain.name), ":", Printable(progress.mount_point), " [", std::string(filled, '#'),
      std::string(kBarWidth - filled, '.'), "] ", static_cast<int>(fraction * 100), "%  ",
      FormatByteSize(progress.trimmed), " trimmed by the guest");
  if (progress.left) {
    absl::StrAppend(&line, ", about ",
                    absl::FormatDuration(absl::Ceil(*progress.left, absl::Seconds(1))), " left");
  }
  Draw(std::move(line));
}

void ProgressLine::Show(const DomainSummary& domain, absl::string_view what) {
  if (!enabled_) return;
  const std::lock_guard lock(mutex_);
  Draw(absl::StrCat(Printable(domain.name), ": ", what));
}

void ProgressLine::Show(const std::string& text) {
  if (!enabled_) return;
  const std::lock_guard lock(mutex_);
  const absl::Time now = absl::Now();
  if (now - last_ < kEvery) return;
  last_ = now;
  Draw(Printable(text));
}

void ProgressLine::Say(absl::string_view line) {
  const std::lock_guard lock(mutex_);
  Clear();
  WriteOnce(fd_, absl::StrCat(line, "\n"));
}

void ProgressLine::Draw(std::string line) {
  const size_t width = Columns(fd_) - 1;
  if (line.size() > width) line.resize(width);
  const size_t length = line.size();
  if (shown_ > length) line.append(shown_ - length, ' ');
  shown_ = length;
  WriteOnce(fd_, absl::StrCat("\r", line));
}

void ProgressLine::Clear() {
  if (shown_ == 0) return;
  WriteOnce(fd_, absl::StrCat("\r", std::string(shown_, ' '), "\r"));
  shown_ = 0;
}

}  // namespace virt_reclaim
