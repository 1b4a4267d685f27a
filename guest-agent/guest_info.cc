#include "guest-agent/guest_info.h"

#include <sys/utsname.h>

#include <ctime>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "base/io.h"

namespace virt_reclaim::agent {
namespace {

constexpr size_t kMaxFileBytes = 65536;

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

GuestInfo ReadGuestInfo() {
  GuestInfo info;
  utsname names = {};
  if (uname(&names) == 0) info.kernel_release = names.release;
  if (const auto id = ReadFile("/proc/sys/kernel/random/boot_id", kMaxFileBytes); id.ok()) {
    info.boot_id = std::string(absl::StripAsciiWhitespace(*id));
  }
  timespec now = {};
  if (clock_gettime(CLOCK_BOOTTIME, &now) == 0) {
    info.uptime = std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
  }
  for (const char* path : {"/etc/os-release", "/usr/lib/os-release"}) {
    if (const auto text = ReadFile(path, kMaxFileBytes); text.ok()) {
      info.os_name = PrettyName(*text);
      break;
    }
  }
  return info;
}

}  // namespace virt_reclaim::agent
