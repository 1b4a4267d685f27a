#include "host/commands/trim_way.h"

#include <algorithm>
#include <utility>

#include "host/commands/domain_turn.h"
#include "host/services/qemu_guest_agent.h"

namespace virt_reclaim {
namespace {

// What does not mean that an agent of ours is there and in trouble: two trims of one guest by two
// agents would be one too many.
bool IsAbsence(Reason reason) {
  return reason == Reason::kNoPort || reason == Reason::kNoController ||
         reason == Reason::kAgentNotConnected;
}

std::optional<Blocker> QemuAgentObstacle(const DomainFacts& domain, const GuestTrimOptions& guest) {
  const auto ours = AgentObstacle(domain);
  if (ours && !IsAbsence(ours->reason)) return ours;  // paused or off: nobody answers
  const auto& channels = domain.live.channels;
  const auto channel = std::find_if(channels.begin(), channels.end(), [](const xml::Channel& c) {
    return c.name == kQemuAgentChannelName;
  });
  if (channel == channels.end()) return Blocker{Reason::kNoPort, kQemuAgentChannelName};
  if (channel->state != "connected")
    return Blocker{Reason::kAgentNotConnected, kQemuAgentChannelName};
  if (!guest.mount_points.empty()) return Blocker{Reason::kQemuAgentTrimsAll, ""};
  return std::nullopt;
}

}  // namespace

absl::string_view Name(TrimWay way) { return way == TrimWay::kAgent ? "agent" : "qemu-agent"; }

WayChoice ChooseWay(const DomainFacts& domain, std::optional<TrimWay> wanted,
                    const GuestTrimOptions& guest) {
  if (wanted != TrimWay::kQemuAgent) {
    auto obstacle = AgentObstacle(domain);
    if (!obstacle) return {TrimWay::kAgent, std::nullopt};
    if (wanted || !IsAbsence(obstacle->reason)) return {std::nullopt, std::move(obstacle)};
    const auto other = QemuAgentObstacle(domain, guest);
    if (!other) return {TrimWay::kQemuAgent, std::nullopt};
    // The agent is what is missing, unless qemu-guest-agent is there and will not do.
    if (other->reason == Reason::kQemuAgentTrimsAll) return {std::nullopt, other};
    return {std::nullopt, std::move(obstacle)};
  }
  auto obstacle = QemuAgentObstacle(domain, guest);
  if (obstacle) return {std::nullopt, std::move(obstacle)};
  return {TrimWay::kQemuAgent, std::nullopt};
}

AgentAccess OpenWay(const Services& services, const DomainFacts& domain,
                    std::optional<TrimWay> wanted, const GuestTrimOptions& guest,
                    absl::Duration timeout, const std::stop_token& stop, TrimWay& way) {
  WayChoice choice = ChooseWay(domain, wanted, guest);
  if (!choice.way) return {std::nullopt, std::move(choice.blocker)};
  if (choice.way == TrimWay::kAgent) {
    way = TrimWay::kAgent;
    AgentAccess access = OpenAgent(services, domain, DomainLock::Use::kWork, timeout, stop);
    const bool absent = access.blocker && access.blocker->reason == Reason::kAgentNotConnected;
    if (wanted || !absent || QemuAgentObstacle(domain, guest)) return access;
  }
  way = TrimWay::kQemuAgent;
  auto lock = LockDomain(services, domain.summary.uuid, DomainLock::Use::kWork, stop);
  if (!lock.ok()) return {std::nullopt, AgentBlocker(lock.status())};
  auto agent = NewQemuGuestAgent(services.hypervisor, domain.summary.uuid);
  // Before anything is measured: is somebody there? 'busy' and 'silent' are told apart here.
  const auto answer = agent->GetInfo(timeout, stop);
  if (!answer.ok()) return {std::nullopt, AgentBlocker(answer.status())};
  return {AgentSession{*std::move(lock), std::move(agent)}, std::nullopt};
}

}  // namespace virt_reclaim
