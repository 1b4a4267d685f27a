#include "host/commands/agent_status.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/status.h"

namespace virt_reclaim {
namespace {

std::optional<std::vector<uint32_t>> Numbers(absl::string_view version) {
  std::vector<uint32_t> numbers;
  for (const absl::string_view part : absl::StrSplit(version, '.')) {
    if (!absl::SimpleAtoi(part, &numbers.emplace_back())) return std::nullopt;
  }
  return numbers;
}

AgentStatusOfDomain StatusOf(const Services& services, const DomainSummary& summary,
                             const AgentStatusOptions& options, const std::stop_token& stop) {
  AgentStatusOfDomain status;
  status.summary = summary;
  status.outcome.asked_for = !options.domains.empty();
  const auto skip = [&](Blocker blocker) {
    status.outcome.kind =
        blocker.reason == Reason::kAgentFailed || blocker.reason == Reason::kAgentSilent
            ? OutcomeKind::kFailed
            : OutcomeKind::kSkipped;
    status.blocker = std::move(blocker);
  };
  auto facts = CollectDomain(services, summary);
  if (!facts.ok()) {
    status.outcome.kind = OutcomeKind::kFailed;
    status.outcome.error = facts.status();
    return status;
  }
  AgentAccess access =
      OpenAgent(services, *facts, DomainLock::Use::kLook, options.agent_timeout, stop);
  if (!access.session) {
    skip(*access.blocker);
    return status;
  }
  auto info = access.session->agent->GetInfo(options.agent_timeout, stop);
  if (info.ok()) {
    status.agent = *std::move(info);
    status.older = IsOlderVersion(status.agent->agent_version, options.version);
  } else {
    skip(AgentBlocker(info.status()));
  }
  return status;
}

}  // namespace

std::optional<bool> IsOlderVersion(absl::string_view one, absl::string_view other) {
  auto ones = Numbers(one), others = Numbers(other);
  if (!ones || !others) return std::nullopt;
  const size_t length = std::max(ones->size(), others->size());
  ones->resize(length);
  others->resize(length);
  return *ones < *others;
}

absl::StatusOr<std::vector<AgentStatusOfDomain>> GetAgentStatus(const Services& services,
                                                                const AgentStatusOptions& options,
                                                                const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(const std::vector<DomainSummary> selected,
                      SelectDomains(services.hypervisor, options.domains));
  std::vector<AgentStatusOfDomain> statuses(selected.size());
  ForEachInParallel(selected.size(), kGuestsAtOnce, [&](size_t i) {
    if (!stop.stop_requested()) statuses[i] = StatusOf(services, selected[i], options, stop);
  });
  if (stop.stop_requested()) return absl::CancelledError("interrupted");
  return statuses;
}

}  // namespace virt_reclaim
