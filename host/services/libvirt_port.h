// A domain's channel as a Port, over a libvirt stream (virDomainOpenChannel): works for local and
// remote hypervisors alike.
#ifndef VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_PORT_H_
#define VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_PORT_H_

#include <libvirt/libvirt.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "proto/link/port.h"

namespace virt_reclaim {

// Needs libvirt's event loop on another thread. Aborted when another stream has the channel.
absl::StatusOr<std::unique_ptr<link::Port>> OpenLibvirtPort(virDomainPtr domain,
                                                            const std::string& channel);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_PORT_H_
