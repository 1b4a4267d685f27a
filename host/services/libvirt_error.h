// libvirt's last error of this thread as an absl::Status. Source: libvirt/virterror.h.
#ifndef VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_ERROR_H_
#define VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_ERROR_H_

#include <libvirt/libvirt.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace virt_reclaim {

// "<what>: <libvirt's message>", one printable line, with the code that fits; clears libvirt's
// error.
absl::Status LibvirtStatus(absl::string_view what);

// For a question about the jobs of `domain` (null: none is known) that libvirt has just failed to
// answer: OK where there can be no job, since the driver knows none or the domain is off. Any other
// error is no 'nothing runs'. Clears libvirt's error.
absl::Status LibvirtJobStatus(virDomainPtr domain);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_ERROR_H_
