// qemu-guest-agent (org.qemu.guest_agent.0) in the shape of GuestAgent, for guests without
// virt-reclaim-agent. It can list filesystems (guest-get-fsinfo) and trim all of them at once
// (guest-fstrim); it can neither trim in pieces nor be stopped. Everything it says is the guest's
// word: bounded, made printable, believed nowhere.
#ifndef VIRT_RECLAIM_HOST_SERVICES_QEMU_GUEST_AGENT_H_
#define VIRT_RECLAIM_HOST_SERVICES_QEMU_GUEST_AGENT_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "host/model/reason.h"
#include "host/services/guest_agent.h"
#include "host/services/hypervisor.h"

namespace virt_reclaim {

inline constexpr char kQemuAgentChannelName[] = "org.qemu.guest_agent.0";

// `hypervisor` outlives it. Of GuestTrimOptions only `minimum` is heeded; mount points are refused
// (InvalidArgument). ListFilesystems is Unimplemented with qemu-guest-agent before 2.2. A stop or
// the deadline ends the wait, not the trim in the guest.
std::unique_ptr<GuestAgent> NewQemuGuestAgent(Hypervisor& hypervisor, std::string uuid);

// What forbids a trim after `answer` to guest-fsfreeze-status, or the error in its place: kFrozen;
// kAgentSilent, kBusy or kAgentFailed when it is not known, since a guest that may be frozen counts
// as frozen. Nothing: it is thawed, or its agent cannot freeze at all. Pure.
std::optional<Blocker> FreezeBlocker(const absl::StatusOr<std::string>& answer);

// The answers, parsed. Internal: no JSON, too large, too deep, or not what was asked for.
absl::StatusOr<std::vector<GuestFilesystem>> ParseFsInfo(absl::string_view json);
// `filesystems`: of ParseFsInfo, for the disks below each path; may be empty.
absl::StatusOr<std::vector<GuestTrim>> ParseFstrim(absl::string_view json,
                                                   const std::vector<GuestFilesystem>& filesystems);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_QEMU_GUEST_AGENT_H_
