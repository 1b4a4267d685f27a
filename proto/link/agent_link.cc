// The agent's end of the link: serves one host after the other on the caller's thread.
#include <chrono>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "proto/link/bridge.h"
#include "proto/link/pump.h"

namespace virt_reclaim::link {

class AgentLink::Impl {
 public:
  Impl(std::unique_ptr<Port> port, OnSession on_session)
      : pump_(std::move(port), {.role = Session::Role::kAgent},
              {.on_open = std::move(on_session), .on_end = [](const std::string&) {}}) {}

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
  Pump pump_;
};

AgentLink::AgentLink(std::unique_ptr<Port> port, OnSession on_session)
    : impl_(std::make_unique<Impl>(std::move(port), std::move(on_session))) {}

AgentLink::~AgentLink() = default;

// NOLINTNEXTLINE(performance-unnecessary-value-param): as std::jthread hands it out
absl::Status AgentLink::Run(std::stop_token stop, const Heartbeat& heartbeat) {
  return impl_->Run(stop, heartbeat);
}

}  // namespace virt_reclaim::link
