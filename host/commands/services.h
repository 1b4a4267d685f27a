// The outside world, handed to every command: real in the program, fakes in the tests.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_SERVICES_H_
#define VIRT_RECLAIM_HOST_COMMANDS_SERVICES_H_

#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "base/beat.h"
#include "host/services/guest_agent.h"
#include "host/services/hypervisor.h"
#include "host/services/image_store.h"
#include "host/services/offline_guest.h"
#include "host/sparsify/overlay.h"
#include "host/sparsify/sparsify.h"

namespace virt_reclaim {

struct Services {
  Hypervisor& hypervisor;
  ImageStore& images;
  std::function<absl::StatusOr<std::unique_ptr<GuestAgent>>(std::unique_ptr<link::Port>,
                                                            absl::Duration, std::stop_token)>
      connect_agent;
  std::string lock_directory;   // /run/virt-reclaim
  std::string state_directory;  // /var/lib/virt-reclaim
  std::function<absl::Time()> now;
  std::function<void(absl::Duration)> sleep;
  OfflineGuest* offline_guest = nullptr;  // null: guests that are off stay unknown
  // sparsify::Sparsify, with the programs it needs filled in.
  std::function<absl::StatusOr<sparsify::SparsifyResult>(
      const std::vector<sparsify::DiskSpec>& disks, sparsify::Mode mode,
      const sparsify::SparsifyOptions& options, const std::function<absl::Status()>& check,
      const sparsify::ProgressCallback& progress, const std::stop_token& stop)>
      sparsify = nullptr;
  // sparsify::Overlay::ZeroFree, likewise.
  std::function<absl::StatusOr<sparsify::SparsifyResult>(
      sparsify::Overlay& overlay, const sparsify::SparsifyOptions& options,
      const sparsify::ProgressCallback& progress, const std::stop_token& stop)>
      zero_free = nullptr;
  // A backup job could not be ended: whoever watches this program goes on trying when it has ended.
  // Null: nobody watches.
  std::function<void()> leave_to_watcher = nullptr;
  std::function<absl::StatusOr<std::unique_ptr<Beat>>(absl::Duration, std::function<void()>)>
      start_beat = StartBeat;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_SERVICES_H_
