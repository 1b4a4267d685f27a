// Who this guest is: what GetInfo tells. No disk access but for /etc/os-release. Any thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_GUEST_INFO_H_
#define VIRT_RECLAIM_GUEST_AGENT_GUEST_INFO_H_

#include <chrono>
#include <string>

#include "absl/strings/string_view.h"

namespace virt_reclaim::agent {

struct GuestInfo {
  std::string kernel_release;
  std::string boot_id;
  std::chrono::nanoseconds uptime{0};
  std::string os_name;
};

// What cannot be found out stays empty.
GuestInfo ReadGuestInfo();

// The value of PRETTY_NAME in the text of an os-release(5) file, unquoted; empty when there is
// none.
std::string PrettyName(absl::string_view os_release);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_GUEST_INFO_H_
