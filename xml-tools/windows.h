// Is the guest Windows, and does this disk boot it? Pure. Any thread. Internal to xml-tools.
#ifndef VIRT_RECLAIM_XML_TOOLS_WINDOWS_H_
#define VIRT_RECLAIM_XML_TOOLS_WINDOWS_H_

#include <string>
#include <vector>

#include "xml-tools/document.h"
#include "xml-tools/domain.h"

namespace virt_reclaim::xml {

// What in the XML says that the guest is Windows: libosinfo's id, or the Hyper-V features, which
// only Windows gets. Empty: nothing does.
std::string SignOfWindows(const Document& document);

// `disks[i]` was read from `nodes[i]`. In doubt yes: with a <boot order> on any disk, each disk
// that has one; else the first disk of every bus, by place as well as by name.
bool MayBoot(const Document& document, const Domain& domain, const std::vector<NodeId>& nodes,
             size_t disk);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_WINDOWS_H_
