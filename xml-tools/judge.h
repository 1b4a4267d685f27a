// May this disk get discard='unmap'? One disk at a time, without looking at what the rest of the
// domain needs. Pure. Any thread. Internal to xml-tools.
#ifndef VIRT_RECLAIM_XML_TOOLS_JUDGE_H_
#define VIRT_RECLAIM_XML_TOOLS_JUDGE_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "xml-tools/conflicts.h"
#include "xml-tools/document.h"
#include "xml-tools/domain.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {

// The refusal of `disk`; `reason` is a code, `detail` a sentence.
Refusal Refuse(const Disk& disk, absl::string_view reason, std::string detail);

// Why the disk stays as it is, whatever its bus and machine type; nullopt: nothing against it.
std::optional<Refusal> RefusalOfKind(const Document& document, NodeId node, const Disk& disk,
                                     const QemuConflicts& conflicts);

// The same for bus and machine type. kMachineTooOld is a refusal only when the machine type may not
// be raised.
std::optional<Refusal> RefusalOfPath(const Domain& domain, const Disk& disk,
                                     const RewriteOptions& options);

// What to know of a disk that is edited.
std::vector<Refusal> WarningsOf(const Document& document, NodeId node, const Domain& domain,
                                const Disk& disk);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_JUDGE_H_
