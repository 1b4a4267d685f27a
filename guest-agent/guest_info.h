// Who this guest is: what GetInfo tells. No disk access but for os-release(5). Any thread.
#ifndef VIRT_RECLAIM_GUEST_AGENT_GUEST_INFO_H_
#define VIRT_RECLAIM_GUEST_AGENT_GUEST_INFO_H_

#include <sys/stat.h>

#include <chrono>
#include <mutex>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace virt_reclaim::agent {

struct GuestInfo {
  std::string kernel_release;
  std::string boot_id;
  std::chrono::nanoseconds uptime{0};
  // Since this reader was made, with the time the guest slept; empty: not known.
  std::optional<std::chrono::nanoseconds> agent_uptime;
  std::string os_name;
};

// Reads what can change only when it may have: an agent is asked often, and a file costs a guest
// more than the rest of the call.
class GuestInfoReader {
 public:
  GuestInfoReader();
  // What cannot be found out stays empty.
  GuestInfo Read();

 private:
  const GuestInfo constant_;                               // what stays until the next boot
  const std::optional<std::chrono::nanoseconds> started_;  // uptime of the guest then
  std::mutex mutex_;
  struct stat os_release_ {};  // of the file that os_name_ is from
  std::string os_name_;
};

// The value of PRETTY_NAME in the text of an os-release(5) file, unquoted; empty when there is
// none.
std::string PrettyName(absl::string_view os_release);

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_GUEST_INFO_H_
