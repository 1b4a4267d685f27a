#include "xml-tools/capabilities.h"

#include <algorithm>

#include "base/status.h"
#include "xml-tools/document.h"

namespace virt_reclaim::xml {
namespace {

void AddOnce(const std::string& name, std::vector<std::string>& names) {
  if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
}

void AddMachines(const Document& document, NodeId parent, HostMachines& machines) {
  for (const NodeId machine : document.Children(parent, "machine")) {
    const bool is_deprecated = document.Value(machine, "deprecated") == "yes";
    // An alias and what it stands for: <machine canonical='pc-i440fx-7.2'>pc</machine>.
    for (const std::string& name :
         {document.TextOf(machine), document.Value(machine, "canonical")}) {
      if (name.empty()) continue;
      AddOnce(name, machines.names);
      if (is_deprecated) AddOnce(name, machines.deprecated);
    }
  }
}

}  // namespace

absl::StatusOr<HostMachines> MachineTypesOf(absl::string_view capabilities, absl::string_view arch,
                                            absl::string_view type) {
  VR_ASSIGN_OR_RETURN(const Document document, ParseDocument(capabilities));
  if (!document.IsElement(document.root(), "capabilities"))
    return absl::InvalidArgumentError("not the XML of capabilities");
  HostMachines machines;
  for (const NodeId guest : document.Children(document.root(), "guest")) {
    const NodeId arch_node = document.Child(guest, "arch");
    if (arch_node == kNoNode || document.Value(arch_node, "name") != arch) continue;
    for (const NodeId domain : document.Children(arch_node, "domain")) {
      if (document.Value(domain, "type") != type) continue;
      // Machines of a domain type of its own take the place of those of all.
      AddMachines(document, document.Child(domain, "machine") == kNoNode ? arch_node : domain,
                  machines);
    }
  }
  return machines;
}

}  // namespace virt_reclaim::xml
