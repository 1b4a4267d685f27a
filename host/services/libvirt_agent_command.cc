#include "host/services/libvirt_agent_command.h"

#include <libvirt/libvirt-qemu.h>
#include <libvirt/virterror.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/handle.h"
#include "host/services/libvirt_error.h"

namespace virt_reclaim {
namespace {

using std::chrono::steady_clock;

using DomainHandle = Handle<virDomain, virDomainFree>;

// What libvirt may take longer than its own timeout: it first asks the agent to synchronize, which
// it gives 5 s of its own.
constexpr std::chrono::seconds kSynchronization{7};
// How often a domain is looked at that is being waited for: a paused one never answers.
constexpr std::chrono::milliseconds kLook{500};

// Shared with the thread that is in libvirt, which may outlive the caller.
struct Call {
  std::mutex mutex;
  std::condition_variable_any done;
  std::optional<absl::StatusOr<std::string>> answer;
};

// libvirt's words for these do not end up in the same status: somebody else who talks to the agent
// is worth another try, an agent that is dead is not.
absl::Status CommandStatus() {
  const virError* error = virGetLastError();
  const int code = error != nullptr ? error->code : 0;
  const absl::Status status = LibvirtStatus("qemu-guest-agent");
  if (code == VIR_ERR_OPERATION_TIMEOUT) return absl::AbortedError(status.message());
  if (code == VIR_ERR_AGENT_UNSYNCED) return absl::DeadlineExceededError(status.message());
  return status;
}

absl::StatusOr<std::string> CallLibvirt(virDomainPtr domain, const std::string& command,
                                        int seconds) {
  const Handle<char, free> answer(virDomainQemuAgentCommand(domain, command.c_str(), seconds, 0));
  if (answer == nullptr) return CommandStatus();
  return std::string(answer.get());
}

bool Runs(virDomainPtr domain) {
  int state = 0;
  if (virDomainGetState(domain, &state, nullptr, 0) != 0) {
    virResetLastError();
    return true;  // not known: the timeout decides
  }
  return state == VIR_DOMAIN_RUNNING || state == VIR_DOMAIN_BLOCKED;
}

}  // namespace

absl::StatusOr<std::string> RunAgentCommand(virDomainPtr domain, const std::string& command,
                                            absl::Duration timeout, const std::stop_token& stop) {
  if (virDomainRef(domain) != 0) return LibvirtStatus("keep the domain");
  const auto call = std::make_shared<Call>();
  const auto seconds = static_cast<int>(
      std::clamp<int64_t>(absl::ToInt64Seconds(absl::Ceil(timeout, absl::Seconds(1))), 1,
                          std::numeric_limits<int>::max()));
  std::thread([call, command, seconds, owner = DomainHandle(domain)] {
    auto answer = CallLibvirt(owner.get(), command, seconds);
    const std::lock_guard lock(call->mutex);
    call->answer = std::move(answer);
    call->done.notify_all();
  }).detach();

  const auto limit = steady_clock::now() + absl::ToChronoMilliseconds(timeout) + kSynchronization;
  std::unique_lock lock(call->mutex);
  while (!call->answer) {
    const auto next = std::min(limit, steady_clock::now() + kLook);
    if (call->done.wait_until(lock, stop, next, [&] { return call->answer.has_value(); })) break;
    if (stop.stop_requested()) return absl::CancelledError("qemu-guest-agent: interrupted");
    if (!Runs(domain)) {
      return absl::UnavailableError(
          "qemu-guest-agent: the domain was paused or stopped before the answer");
    }
    if (steady_clock::now() >= limit) {
      return absl::DeadlineExceededError(
          absl::StrCat("qemu-guest-agent: libvirt gave no answer within ", seconds, " s"));
    }
  }
  return *std::move(call->answer);
}

}  // namespace virt_reclaim
