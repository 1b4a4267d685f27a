// Arguments and overrides that a domain hands straight to QEMU (namespace qemu) and that may
// contradict an edit of a disk or of the machine type. Pure. Any thread. Internal to xml-tools.
#ifndef VIRT_RECLAIM_XML_TOOLS_CONFLICTS_H_
#define VIRT_RECLAIM_XML_TOOLS_CONFLICTS_H_

#include <set>
#include <string>

#include "xml-tools/document.h"
#include "xml-tools/domain.h"

namespace virt_reclaim::xml {

struct QemuConflicts {
  std::string of_domain;  // the argument that may touch any disk or the machine; empty: none
  std::set<std::string> of_alias;  // aliases of disks that have an override of their own
};

QemuConflicts FindQemuConflicts(const Document& document, const Domain& domain);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_CONFLICTS_H_
