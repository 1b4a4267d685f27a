#include "guest-agent/guest_info.h"

#include <sys/utsname.h>

#include <ctime>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "base/io.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kMaxFileBytes = 65536;

GuestInfo ReadConstant() {
  GuestInfo info;
  utsname names = {};
  if (uname(&names) == 0) info.kernel_release = names.release;
  if (const auto id = ReadFile("/proc/sys/kernel/random/boot_id", kMaxFileBytes); id.ok()) {
    info.boot_id = std::string(absl::StripAsciiWhitespace(*id));
  }
  return info;
}

bool SameContents(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

// Counts while the guest sleeps, too.
std::optional<std::chrono::nanoseconds> Uptime() {
  timespec now = {};
  if (clock_gettime(CLOCK_BOOTTIME, &now) != 0) return std::nullopt;
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

}  // namespace

std::string PrettyName(absl::string_view os_release) {
  constexpr absl::string_view kKey = "PRETTY_NAME=";
  for (const absl::string_view line : absl::StrSplit(os_release, '\n')) {
    if (line.substr(0, kKey.size()) != kKey) continue;
    absl::string_view value = absl::StripAsciiWhitespace(line.substr(kKey.size()));
    const bool quoted =
        value.size() >= 2 && (value[0] == '"' || value[0] == '\'') && value.back() == value[0];
    if (quoted) value = value.substr(1, value.size() - 2);
    std::string name;
    for (size_t i = 0; i < value.size(); ++i) {
      if (value[i] == '\\' && i + 1 < value.size())
        ++i;  // shell escapes, the only ones the format allows
      name += value[i];
    }
    return name;
  }
  return "";
}

GuestInfoReader::GuestInfoReader() : constant_(ReadConstant()), started_(Uptime()) {}

GuestInfo GuestInfoReader::Read() {
  GuestInfo info = constant_;
  if (const auto now = Uptime()) {
    info.uptime = *now;
    if (started_) info.agent_uptime = *now - *started_;
  }
  const std::lock_guard lock(mutex_);
  for (const char* path : {"/etc/os-release", "/usr/lib/os-release"}) {
    struct stat file {};
    if (stat(path, &file) != 0) continue;
    if (!SameContents(file, os_release_)) {
      os_name_ = PrettyName(ReadFile(path, kMaxFileBytes).value_or(""));
      os_release_ = file;
    }
    info.os_name = os_name_;
    break;
  }
  return info;
}

}  // namespace virt_reclaim::agent
