// The facts of domain.h out of an already parsed document, and the nodes they were read from, for
// those who edit them. Pure. Any thread. Internal to xml-tools.
#ifndef VIRT_RECLAIM_XML_TOOLS_DOMAIN_READER_H_
#define VIRT_RECLAIM_XML_TOOLS_DOMAIN_READER_H_

#include <vector>

#include "absl/status/status.h"
#include "xml-tools/document.h"
#include "xml-tools/domain.h"

namespace virt_reclaim::xml {

// InvalidArgument, naming what the document is, when its root is not a plain <domain>.
absl::Status CheckIsDomain(const Document& document);

// `disks[i]` of ReadDomain was read from `DiskNodes()[i]`.
Domain ReadDomain(const Document& document);
std::vector<NodeId> DiskNodes(const Document& document);

// os/type of the domain, or kNoNode.
NodeId OsTypeNode(const Document& document);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_DOMAIN_READER_H_
