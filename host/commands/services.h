// The outside world, handed to every command: real in the program, fakes in the tests.
#ifndef VIRT_RECLAIM_HOST_COMMANDS_SERVICES_H_
#define VIRT_RECLAIM_HOST_COMMANDS_SERVICES_H_

#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "host/services/guest_agent.h"
#include "host/services/hypervisor.h"
#include "host/services/image_store.h"
#include "host/services/offline_guest.h"

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
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_COMMANDS_SERVICES_H_
