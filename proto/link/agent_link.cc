// The agent's end of the link: serves one host after the other on the caller's thread.
#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "proto/link/bridge.h"
#include "proto/link/pump.h"

namespace virt_reclaim::link {
namespace {

// What a host may send in one session. A trim of a day, with its pace told every second, is some
// 10 MB.
constexpr uint64_t kMaxReceivedBytes = uint64_t{16} << 20;

constexpr size_t kGuardEvery = size_t{16} << 10;

}  // namespace

class AgentLink::Impl {
 public:
  Impl(std::unique_ptr<Port> port, OnSession on_session, Guard guard)
      : pump_(std::move(port),
              {.role = Session::Role::kAgent, .max_received_bytes = kMaxReceivedBytes},
              HooksOf(std::move(on_session), std::move(guard))) {}

  absl::Status Run(const std::stop_token& stop, const Heartbeat& heartbeat) {
    VR_RETURN_IF_ERROR(pump_.Init());
    const std::stop_callback wake(stop, [this] { pump_.Wake(); });
    std::optional<Pump::TimePoint> next;
    while (!stop.stop_requested() && pump_.port_error().empty()) {
      const auto now = std::chrono::steady_clock::now();
      if (heartbeat.beat && (!next || now >= *next)) {
        heartbeat.beat();
        next = now + heartbeat.every;
      }
      pump_.Round(next);
    }
    pump_.Goodbye();
    if (pump_.port_error().empty()) return absl::OkStatus();
    return absl::UnavailableError(pump_.port_error());
  }

 private:
  Pump::Hooks HooksOf(OnSession on_session, Guard guard) {
    Pump::Hooks hooks{.on_open = std::move(on_session), .on_end = [](const std::string&) {}};
    if (!guard) return hooks;
    hooks.on_open = [this, on_open = std::move(hooks.on_open), guard](UniqueFd socket) {
      unguarded_ = 0;
      static_cast<void>(guard(true));
      on_open(std::move(socket));
    };
    hooks.on_deliver = [this, guard](size_t bytes) -> std::string {
      unguarded_ += bytes;
      if (unguarded_ < kGuardEvery) return "";
      unguarded_ = 0;
      return guard(false);
    };
    return hooks;
  }

  size_t unguarded_ = 0;  // before the pump, whose hooks use it
  Pump pump_;
};

AgentLink::AgentLink(std::unique_ptr<Port> port, OnSession on_session, Guard guard)
    : impl_(std::make_unique<Impl>(std::move(port), std::move(on_session), std::move(guard))) {}

AgentLink::~AgentLink() = default;

// NOLINTNEXTLINE(performance-unnecessary-value-param): as std::jthread hands it out
absl::Status AgentLink::Run(std::stop_token stop, const Heartbeat& heartbeat) {
  return impl_->Run(stop, heartbeat);
}

}  // namespace virt_reclaim::link
