// A domain's channel as a Port, straight over the socket of QEMU that the XML names: for when
// libvirt cannot open a channel, or may not. Local hypervisors only.
#ifndef VIRT_RECLAIM_HOST_SERVICES_CHANNEL_SOCKET_H_
#define VIRT_RECLAIM_HOST_SERVICES_CHANNEL_SOCKET_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "proto/link/port.h"

namespace virt_reclaim {

// Never blocks. Aborted when others wait for the socket already: QEMU serves one at a time.
absl::StatusOr<std::unique_ptr<link::Port>> OpenChannelSocket(const std::string& path);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_CHANNEL_SOCKET_H_
