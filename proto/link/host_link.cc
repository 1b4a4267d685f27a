// The host's end of the link: the knocking runs on the caller's thread, so that a failed Open
// leaves nothing behind; the open session runs on a thread of its own.
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "proto/link/bridge.h"
#include "proto/link/pump.h"

namespace virt_reclaim::link {
namespace {

class HostLinkImpl final : public HostLink {
 public:
  HostLinkImpl(std::unique_ptr<Port> port, const Options& options)
      : pump_(std::move(port),
              {.role = Session::Role::kHost, .max_received_bytes = options.max_received_bytes},
              {.on_open = [this](UniqueFd socket) { socket_ = std::move(socket); },
               .on_end = [this](const std::string& reason) { SetEndReason(reason); }}) {}

  ~HostLinkImpl() override {
    if (!thread_.joinable()) return;
    thread_.request_stop();
    thread_.join();
  }

  absl::Status Connect(std::chrono::milliseconds timeout, const std::stop_token& stop) {
    VR_RETURN_IF_ERROR(pump_.Init());
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    const std::stop_callback wake(stop, [this] { pump_.Wake(); });
    while (!socket_.valid()) {
      if (stop.stop_requested()) return absl::CancelledError("stopped");
      if (!pump_.port_error().empty()) return absl::UnavailableError(pump_.port_error());
      if (pump_.session().refused_by_version()) {
        return absl::FailedPreconditionError(pump_.session().end_reason());
      }
      if (pump_.session().state() == Session::State::kEnded) {
        return absl::UnavailableError(pump_.session().end_reason());
      }
      if (std::chrono::steady_clock::now() >= deadline) {
        return absl::DeadlineExceededError(
            absl::StrCat("no answer from the guest agent within ", timeout.count(), " ms"));
      }
      pump_.Round(deadline);
    }
    thread_ = std::jthread([this](const std::stop_token& token) { Serve(token); });
    return absl::OkStatus();
  }

  UniqueFd TakeSocket() override { return std::move(socket_); }

  std::string EndReason() const override {
    const std::lock_guard lock(mutex_);
    return end_reason_;
  }

 private:
  void Serve(const std::stop_token& stop) {
    const std::stop_callback wake(stop, [this] { pump_.Wake(); });
    while (!stop.stop_requested() && pump_.session().state() != Session::State::kEnded) {
      pump_.Round(std::nullopt);
    }
    pump_.Goodbye();
  }

  void SetEndReason(const std::string& reason) {
    const std::lock_guard lock(mutex_);
    end_reason_ = reason;
  }

  Pump pump_;        // of Connect, then of thread_
  UniqueFd socket_;  // set by the pump within Connect, then the user's
  mutable std::mutex mutex_;
  std::string end_reason_;
  std::jthread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HostLink>> HostLink::Open(
    std::unique_ptr<Port> port, const Options& options,
    // NOLINTNEXTLINE(performance-unnecessary-value-param)
    std::stop_token stop) {
  auto link = std::make_unique<HostLinkImpl>(std::move(port), options);
  VR_RETURN_IF_ERROR(link->Connect(options.connect_timeout, stop));
  return link;
}

}  // namespace virt_reclaim::link
