#include "xml-tools/channel.h"

#include <algorithm>

namespace virt_reclaim::xml {
namespace {

constexpr char kAgentPort[] = "org.virt_reclaim.agent.v1";

// Behind which element of <devices> a new one goes: the last `name`, else the last of all.
NodeId PlaceFor(const Document& document, NodeId devices, absl::string_view name) {
  const std::vector<NodeId> alike = document.Children(devices, name);
  if (!alike.empty()) return alike.back();
  NodeId last = kNoNode;
  for (NodeId id = document.node(devices).first_child; id != kNoNode; id = document.node(id).next) {
    if (document.node(id).kind == NodeKind::kElement) last = id;
  }
  return last;
}

}  // namespace

void PlanChannel(const Document& document, const Domain& domain, std::vector<Edit>& edits,
                 Rewritten& result) {
  const auto is_ours = [](const Channel& channel) { return channel.name == kAgentPort; };
  if (std::any_of(domain.channels.begin(), domain.channels.end(), is_ours)) return;
  const NodeId devices = document.Child(document.root(), "devices");
  if (devices == kNoNode || PlaceFor(document, devices, "channel") == kNoNode) {
    result.refusals.push_back({"", "no-devices", "there is no <devices> to put the channel into"});
    return;
  }
  const auto is_serial = [](const Controller& c) { return c.type == "virtio-serial"; };
  if (std::none_of(domain.controllers.begin(), domain.controllers.end(), is_serial)) {
    edits.push_back(InsertAfter{PlaceFor(document, devices, "controller"),
                                {"controller", {{"type", "virtio-serial"}, {"index", "0"}}, {}}});
    result.changes.push_back({"", "controller", "", "virtio-serial 0", "the channel needs it"});
  }
  edits.push_back(InsertAfter{PlaceFor(document, devices, "channel"),
                              {"channel",
                               {{"type", "unix"}},
                               {{"target", {{"type", "virtio"}, {"name", kAgentPort}}, {}}}}});
  result.changes.push_back({"", "channel", "", kAgentPort, "the agent in the guest answers there"});
}

}  // namespace virt_reclaim::xml
