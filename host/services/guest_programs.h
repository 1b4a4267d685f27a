// Files written into a running guest, and programs run in it, by qemu-guest-agent (guest-file-*,
// guest-exec). Whatever it answers is the guest's word: bounded in size and time, and believed for
// nothing but the guest's own line.
#ifndef VIRT_RECLAIM_HOST_SERVICES_GUEST_PROGRAMS_H_
#define VIRT_RECLAIM_HOST_SERVICES_GUEST_PROGRAMS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "host/services/hypervisor.h"

namespace virt_reclaim {

inline constexpr size_t kMaxGuestOutput = size_t{64} << 10;  // bytes of each stream

// How a program in the guest ended. The texts are the guest's: make them printable.
struct GuestProgramEnd {
  int exit_status = -1;  // -1: a signal ended it
  std::string out, err;  // at most kMaxGuestOutput each
};

// Of one domain. Statuses are those of Hypervisor::QemuAgentCommand; Internal: the agent's own
// words, or an answer that cannot be. One thread at a time.
class GuestPrograms {
 public:
  struct Clock {
    std::function<absl::Time()> now;
    std::function<void(absl::Duration)> sleep;
  };
  // `hypervisor` outlives it.
  GuestPrograms(Hypervisor& hypervisor, std::string uuid, Clock clock);

  // Which commands of those needed here the agent does not have, or does not carry out
  // (block-rpcs).
  absl::StatusOr<std::vector<std::string>> Blocked(const std::stop_token& stop);

  // The id of guest-get-osinfo ("debian", "mswindows"), printable; empty: not told.
  std::string System(const std::stop_token& stop);

  // Makes `path` of the guest anew with `content`, at most until `deadline`. `progress` may be
  // empty. What a failure leaves is a part of the file.
  absl::Status WriteFile(const std::string& path, absl::string_view content, absl::Time deadline,
                         const std::function<void(size_t written)>& progress,
                         const std::stop_token& stop);

  // Runs `arguments[0]`, a path, and waits for its end. DeadlineExceeded: it did not end in
  // `limit`; it may run on, as after a stop.
  absl::StatusOr<GuestProgramEnd> Run(const std::vector<std::string>& arguments,
                                      absl::Duration limit, const std::stop_token& stop);

 private:
  absl::StatusOr<nlohmann::json> Ask(absl::string_view command, const nlohmann::json& arguments,
                                     const std::stop_token& stop);
  absl::Status WriteAll(int64_t handle, absl::string_view content, absl::Time deadline,
                        const std::function<void(size_t written)>& progress,
                        const std::stop_token& stop);

  Hypervisor& hypervisor_;
  const std::string uuid_;
  const Clock clock_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_GUEST_PROGRAMS_H_
