// Where libvirt's QEMU driver keeps what belongs to a running domain: the monitor's socket, and
// whatever else that domain's QEMU may make while AppArmor or SELinux confines it. libvirt gives
// the directory to QEMU's user, labels it, and removes it when the domain ends.
#ifndef VIRT_RECLAIM_HOST_SERVICES_DOMAIN_DIRECTORY_H_
#define VIRT_RECLAIM_HOST_SERVICES_DOMAIN_DIRECTORY_H_

#include <string>

#include "absl/strings/string_view.h"

namespace virt_reclaim {

// What holds those directories, by the hypervisor's URI: of the system's driver, and of an embedded
// one with a root. Empty: not known. Source: libvirt, qemu_conf.c (libDir).
std::string DomainDirectories(absl::string_view uri);

// The one of the running domain with libvirt's number `id`, below `directories`: domain-ID-NAME, of
// which libvirt cuts the name to 20 characters. Empty: there is none, or it is no directory, as a
// link is not. Looks at names only. Source: libvirt, virDomainDefGetShortName.
std::string FindDomainDirectory(const std::string& directories, unsigned id,
                                absl::string_view name);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_DOMAIN_DIRECTORY_H_
