// I/O errors of a domain's disks, as libvirt tells them (VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON).
#ifndef VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_ERROR_WATCH_H_
#define VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_ERROR_WATCH_H_

#include <libvirt/libvirt.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "host/services/hypervisor.h"

namespace virt_reclaim {

// As Hypervisor::WatchErrors; keeps a reference to `connection`.
absl::StatusOr<std::unique_ptr<ErrorWatch>> WatchLibvirtErrors(
    virConnectPtr connection, virDomainPtr domain,
    std::function<void(const std::string& what)> on_error);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_ERROR_WATCH_H_
