// Opens libvirt's connection, within a limit: what listens on libvirt's socket may never answer.
#ifndef VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_CONNECT_H_
#define VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_CONNECT_H_

#include <libvirt/libvirt.h>

#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "base/handle.h"
#include "host/services/hypervisor.h"

namespace virt_reclaim {

using LibvirtConnection = Handle<virConnect, virConnectClose>;

struct OpenedLibvirt {
  LibvirtConnection connection;
  std::string uri;  // canonical, as it was asked for
};

// As ConnectLibvirt. virConnectOpen runs on a thread of its own, which is left behind when the time
// is up or a stop comes. Starts libvirt's event loop, once per process. Any thread.
absl::StatusOr<OpenedLibvirt> OpenLibvirt(const ConnectOptions& options,
                                          const std::stop_token& stop);

// `uri` so that ssh, where it is what carries libvirt's protocol, fails rather than asks; any other
// URI, and one that says itself whether it may, as it is. Source: libvirt.org/uri.html, no_tty.
std::string UriThatAsksNothing(const std::string& uri);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_LIBVIRT_CONNECT_H_
