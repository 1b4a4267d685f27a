// Backup jobs, checkpoints and freezes of libvirt, as functions of its domain. Only for
// libvirt_hypervisor.cc. Any thread.
#ifndef VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_BACKUP_H_
#define VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_BACKUP_H_

#include <libvirt/libvirt.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace virt_reclaim {

// As Hypervisor says of the functions of the same names.
absl::Status LibvirtBeginBackup(virDomainPtr domain, const std::string& backup,
                                const std::string& checkpoint);
absl::StatusOr<std::string> LibvirtBackupXml(virDomainPtr domain);
absl::Status LibvirtEndBackup(virDomainPtr domain);
absl::StatusOr<std::vector<std::string>> LibvirtCheckpoints(virDomainPtr domain);
absl::Status LibvirtDeleteCheckpoint(virDomainPtr domain, const std::string& name);
absl::Status LibvirtFreeze(virDomainPtr domain, bool freeze);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_BACKUP_H_
