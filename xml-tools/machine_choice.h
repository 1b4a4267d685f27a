// Which machine type a domain gets when a policy names one, whatever its disks need. Pure. Any
// thread. Internal to xml-tools.
#ifndef VIRT_RECLAIM_XML_TOOLS_MACHINE_CHOICE_H_
#define VIRT_RECLAIM_XML_TOOLS_MACHINE_CHOICE_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {

struct MachineChoice {
  std::string name;  // as the domain has it when nothing is changed
  std::string reason;
  std::optional<Refusal> refusal;  // the machine type stays
};

// For MachinePolicy::kLatest and kNamed; the others change nothing here.
MachineChoice ChooseMachine(absl::string_view now, const RewriteOptions& options);

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_MACHINE_CHOICE_H_
