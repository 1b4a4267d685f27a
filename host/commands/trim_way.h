// Through which agent a guest is trimmed: ours, or qemu-guest-agent where ours is not.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_TRIM_WAY_H_
#define VIRT_RECLAIM_HOST_COMMANDS_TRIM_WAY_H_

#include <optional>
#include <stop_token>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "host/commands/collect.h"
#include "host/model/reason.h"
#include "host/services/guest_agent.h"

namespace virt_reclaim {

enum class TrimWay { kAgent, kQemuAgent };
// "agent", "qemu-agent".
absl::string_view Name(TrimWay way);

// The way, or why there is none.
struct WayChoice {
  std::optional<TrimWay> way;
  std::optional<Blocker> blocker;
};

// As far as state and XML tell. `wanted` empty: the agent, and qemu-guest-agent where there is
// none. What only the agent can do keeps a guest from qemu-guest-agent. Pure.
WayChoice ChooseWay(const DomainFacts& domain, std::optional<TrimWay> wanted,
                    const GuestTrimOptions& guest);

// OpenAgent (collect.h) for either way. An agent that turns out not to be there gives way to
// qemu-guest-agent when `wanted` is empty; `way` then says so.
AgentAccess OpenWay(const Services& services, const DomainFacts& domain,
                    std::optional<TrimWay> wanted, const GuestTrimOptions& guest,
                    absl::Duration timeout, const std::stop_token& stop, TrimWay& way);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_TRIM_WAY_H_
