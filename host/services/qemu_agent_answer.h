// What qemu-guest-agent says: JSON of the guest's, bounded in size and depth before anything is
// made of it. Pure. Any thread. Internal to host/services.
#ifndef VIRT_RECLAIM_HOST_SERVICES_QEMU_AGENT_ANSWER_H_
#define VIRT_RECLAIM_HOST_SERVICES_QEMU_AGENT_ANSWER_H_

#include <cstddef>
#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim {

inline constexpr size_t kMaxQemuAgentReply = 1 << 20;  // of an honest guest with 4096 filesystems

// The value of "return". Internal: an error of the agent's, in its words, made printable; no JSON,
// or too large. What nests deeper than any honest answer is dropped while it is read.
absl::StatusOr<nlohmann::json> QemuAgentReturn(absl::string_view text);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_QEMU_AGENT_ANSWER_H_
