// The calls of agent.proto that look into the guest's configuration or write to its filesystems, as
// plain functions: message in, message out. The daemon of the systemd unit may do none of them (all
// it sees is read-only), so it has them done by a worker: another unit, started through a socket
// for one call. Any thread; the calling one blocks.
#ifndef VIRT_RECLAIM_GUEST_AGENT_GUEST_CALLS_H_
#define VIRT_RECLAIM_GUEST_AGENT_GUEST_CALLS_H_

#include <functional>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "guest-agent/fitrim.h"
#include "guest-agent/preflight.h"
#include "virt_reclaim/agent/v1/agent.pb.h"

namespace virt_reclaim::agent {

struct GuestCalls {
  std::function<absl::StatusOr<v1::PreflightResponse>(const v1::PreflightRequest&,
                                                      const std::stop_token&)>
      preflight;
  std::function<absl::StatusOr<v1::WriteMarkerResponse>(const v1::WriteMarkerRequest&,
                                                        const std::stop_token&)>
      write_marker;
  std::function<absl::StatusOr<v1::DiscardMarkerResponse>(const v1::DiscardMarkerRequest&,
                                                          const std::stop_token&)>
      discard_marker;
  std::function<absl::StatusOr<v1::FixGuestResponse>(const v1::FixGuestRequest&,
                                                     const std::stop_token&)>
      fix_guest;
  // Deletes markers that a crash left.
  std::function<void()> clean_up;
};

// InvalidArgument for what a request cannot name: no absolute path, or more than PATH_MAX of it.
absl::Status CheckMountPoint(const std::string& point);

// Done here and now.
GuestCalls DirectCalls(PreflightSources sources, FitrimCall fitrim = KernelFitrim);
// Done by whoever listens on the unix socket `path`.
GuestCalls WorkerCalls(const std::string& path);

inline constexpr char kWorkerSocket[] = "/run/virt-reclaim-agent/worker.sock";
// WorkerCalls where the unit's socket is, else DirectCalls.
GuestCalls RealCalls();

// The worker: one call, read from `input` until its end, answered on `output`.
//
//   request:  METHOD '\n' the request message
//   answer:   status code, ' ', message '\n' the response message
//
// `stop`, and a caller that goes, stop the call.
absl::Status ServeWorker(int input, int output, const GuestCalls& calls,
                         const std::stop_token& stop = {});

}  // namespace virt_reclaim::agent

#endif  // VIRT_RECLAIM_GUEST_AGENT_GUEST_CALLS_H_
