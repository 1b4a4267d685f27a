// The port of the guest's agent and the controller it needs. Pure. Any thread. Internal to
// xml-tools.
#ifndef VIRT_RECLAIM_XML_TOOLS_CHANNEL_H_
#define VIRT_RECLAIM_XML_TOOLS_CHANNEL_H_

#include <vector>

#include "xml-tools/document.h"
#include "xml-tools/domain.h"
#include "xml-tools/edit.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {

// Adds to `edits` and `result` what the domain lacks; nothing when it has the port.
void PlanChannel(const Document& document, const Domain& domain, std::vector<Edit>& edits,
                 Rewritten& result);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_CHANNEL_H_
