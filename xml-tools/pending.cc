#include "xml-tools/pending.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "xml-tools/document.h"
#include "xml-tools/named_children.h"

namespace virt_reclaim::xml {
namespace {

// libvirt rounds memory up to whole MiB at the start; each cell and each module for itself.
constexpr uint64_t kMemoryUnit = 1024;  // KiB, as libvirt writes all memory

using Names = std::vector<absl::string_view>;

bool IsIn(const Names& names, absl::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Of the domain: nothing that the guest sees, what changes while it runs, or compared apart.
const Names& SkippedOfDomain() {
  static const Names kNames = {"title",
                               "description",
                               "metadata",
                               "currentMemory",
                               "memory",
                               "maxMemory",
                               "vcpu",
                               "vcpus",
                               "cpu",
                               "clock",
                               "os",
                               "devices",
                               "iothreadids",
                               "memtune",
                               "blkiotune",
                               "cputune",
                               "numatune",
                               "resource",
                               "seclabel",
                               "genid",
                               "perf",
                               "defaultiothread",
                               "throttlegroups",
                               "throttlefilters"};
  return kNames;
}

// Of anything below <devices>: libvirt fills it in, or it changes while the domain runs.
const Names& SkippedOfDevice() {
  static const Names kNames = {"alias",    "address", "stats",    "bandwidth", "backenddomain",
                               "seclabel", "log",     "protocol", "acpi"};
  return kNames;
}

// Devices whose source libvirt makes itself at the start: a pty, a socket.
const Names& CharacterDevices() {
  static const Names kNames = {"serial", "parallel", "console", "smartcard", "redirdev"};
  return kNames;
}

// Devices that can be plugged into a running domain, and that libvirt adds to none by itself.
const Names& Pluggable() {
  static const Names kNames = {"interface", "hostdev", "filesystem", "memory",
                               "rng",       "shmem",   "watchdog"};
  return kNames;
}

// "disk[vda]", "interface[52:54:00:00:00:01]", "timer[rtc]".
std::optional<std::string> KeyOfPending(const Document& document, NodeId element) {
  const std::string& kind = document.node(element).name;
  std::string key;
  if (kind == "disk") key = document.Value(document.Child(element, "target"), "dev");
  if (kind == "interface") key = document.Value(document.Child(element, "mac"), "address");
  if (kind == "timer" || kind == "feature") key = document.Value(element, "name");
  if (key.empty()) return std::nullopt;
  return key;
}

NamedChildren ChildrenOf(const Document& document, NodeId element) {
  return xml::ChildrenOf(document, element, KeyOfPending);
}

class PendingComparison {
 public:
  PendingComparison(const Document& saved, const Document& live) : saved_(saved), live_(live) {}
  std::string Compare() const;

 private:
  std::string CompareAll(NodeId saved, NodeId live, const std::string& path,
                         const Names& skipped) const;
  std::string CompareAttribute(NodeId saved, NodeId live, absl::string_view name,
                               const std::string& path) const;
  std::string CompareText(NodeId saved, NodeId live, const std::string& path) const;
  std::string CompareMemory(const char* name) const;
  std::string CompareVcpus() const;
  std::string CompareCpu() const;
  std::string CompareCpuParts(NodeId saved, NodeId live, bool whole) const;
  std::string CompareNuma(NodeId saved, NodeId live, const std::string& path) const;
  std::string CompareClock() const;
  std::string CompareOs() const;
  std::string CompareDevices() const;
  std::string CompareDevice(NodeId saved, NodeId live, const std::string& path) const;
  std::string CompareDisk(NodeId saved, NodeId live, const std::string& path) const;
  std::string CompareInterface(NodeId saved, NodeId live, const std::string& path) const;
  bool SameMemory(const std::string& saved, const std::string& live) const;

  NodeId OfSaved(absl::string_view name) const { return saved_.Child(saved_.root(), name); }
  NodeId OfLive(absl::string_view name) const { return live_.Child(live_.root(), name); }

  const Document& saved_;
  const Document& live_;
};

std::string PendingComparison::CompareAttribute(NodeId saved, NodeId live, absl::string_view name,
                                                const std::string& path) const {
  const Attribute* const wanted = saved_.FindAttribute(saved, name);
  if (wanted == nullptr) return "";
  const Attribute* const found = live_.FindAttribute(live, name);
  const bool same = found != nullptr && found->value == wanted->value;
  return same ? "" : JoinAttribute(path, name);
}

std::string PendingComparison::CompareText(NodeId saved, NodeId live,
                                           const std::string& path) const {
  return saved_.TextOf(saved) == live_.TextOf(live) ? "" : path;
}

// All that `saved` says, apart from children of a name in `skipped`. Depth is bounded by kMaxDepth
// of tags.h.
std::string PendingComparison::CompareAll(NodeId saved, NodeId live, const std::string& path,
                                          const Names& skipped) const {
  const Node& node = saved_.node(saved);
  for (uint32_t i = 0; i < node.attributes; ++i) {
    const Attribute& attribute = saved_.attribute(node, i);
    // What is left to the start is not what the live one says.
    static const Names kChosenAtStart = {"host", "default", "auto"};
    if (!attribute.plain || IsIn(kChosenAtStart, attribute.value)) continue;
    std::string difference = CompareAttribute(saved, live, attribute.name, path);
    if (!difference.empty()) return difference;
  }
  const NamedChildren found = ChildrenOf(live_, live);
  const std::map<std::string, NodeId> by_name(found.begin(), found.end());
  bool has_children = false;
  for (const auto& [name, id] : ChildrenOf(saved_, saved)) {
    has_children = true;
    if (IsIn(skipped, saved_.node(id).name)) continue;
    const auto same = by_name.find(name);
    if (same == by_name.end()) return Join(path, name);
    std::string difference = CompareAll(id, same->second, Join(path, name), {});
    if (!difference.empty()) return difference;
  }
  return has_children ? "" : CompareText(saved, live, path);
}

bool PendingComparison::SameMemory(const std::string& saved, const std::string& live) const {
  uint64_t wanted = 0, found = 0;
  if (!absl::SimpleAtoi(saved, &wanted) || !absl::SimpleAtoi(live, &found)) return saved == live;
  size_t parts = 1;
  const NodeId numa = saved_.Child(OfSaved("cpu"), "numa");
  parts += saved_.Children(numa, "cell").size();
  parts += saved_.Children(OfSaved("devices"), "memory").size();
  return found >= wanted && found - wanted < parts * kMemoryUnit;
}

std::string PendingComparison::CompareMemory(const char* name) const {
  const NodeId saved = OfSaved(name), live = OfLive(name);
  if (saved == kNoNode) return "";
  return SameMemory(saved_.TextOf(saved), live_.TextOf(live)) ? "" : name;
}

std::string PendingComparison::CompareVcpus() const {
  const NodeId saved = OfSaved("vcpu"), live = OfLive("vcpu");
  if (saved == kNoNode) return "";
  const std::string most = saved_.TextOf(saved), most_now = live_.TextOf(live);
  if (most != most_now) return "vcpu";
  const std::string count = saved_.Value(saved, "current"), now = live_.Value(live, "current");
  return (count.empty() ? most : count) == (now.empty() ? most : now) ? "" : "vcpu/@current";
}

// What libvirt knows of a CPU model, and of the host's, it writes into the live XML.
std::string PendingComparison::CompareCpu() const {
  const NodeId saved = OfSaved("cpu"), live = OfLive("cpu");
  if (saved == kNoNode) return "";
  if (live == kNoNode) return "cpu";
  const std::string mode = saved_.Value(saved, "mode"), now = live_.Value(live, "mode");
  const bool of_host = mode == "host-model";
  if (mode != now && !mode.empty() && !(of_host && now == "custom")) return "cpu/@mode";
  return CompareCpuParts(saved, live, !of_host && saved_.Value(saved, "match") != "minimum");
}

// `whole`: model and features, too.
std::string PendingComparison::CompareCpuParts(NodeId saved, NodeId live, bool whole) const {
  const NamedChildren found = ChildrenOf(live_, live);
  const std::map<std::string, NodeId> by_name(found.begin(), found.end());
  for (const auto& [name, id] : ChildrenOf(saved_, saved)) {
    const std::string& kind = saved_.node(id).name;
    const std::string path = absl::StrCat("cpu/", name);
    const auto same = by_name.find(name);
    std::string difference;
    if (kind == "topology") {
      difference = same == by_name.end() ? path : CompareAll(id, same->second, path, {});
    } else if (kind == "numa") {
      difference = CompareNuma(id, same == by_name.end() ? kNoNode : same->second, path);
    } else if (whole && kind == "model") {
      difference = same == by_name.end() ? path : CompareText(id, same->second, path);
    } else if (whole && kind == "feature" && saved_.Value(id, "policy") != "optional") {
      if (same == by_name.end()) return path;
    }
    if (!difference.empty()) return difference;
  }
  return "";
}

std::string PendingComparison::CompareNuma(NodeId saved, NodeId live,
                                           const std::string& path) const {
  const std::vector<NodeId> cells = saved_.Children(saved, "cell");
  const std::vector<NodeId> now = live_.Children(live, "cell");
  if (cells.size() != now.size()) return path;
  for (size_t i = 0; i < cells.size(); ++i) {
    std::string difference = CompareAttribute(cells[i], now[i], "cpus", Join(path, "cell"));
    if (!difference.empty()) return difference;
    if (!SameMemory(saved_.Value(cells[i], "memory"), live_.Value(now[i], "memory")))
      return Join(path, "cell/@memory");
  }
  return "";
}

// The guest's own settings of its clock become an adjustment.
std::string PendingComparison::CompareClock() const {
  const NodeId saved = OfSaved("clock"), live = OfLive("clock");
  if (saved == kNoNode) return "";
  if (live == kNoNode) return "clock";
  const std::string now = live_.Value(live, "offset");
  if (saved_.Value(saved, "offset") != now && now != "variable") return "clock/@offset";
  const NamedChildren found = ChildrenOf(live_, live);
  const std::map<std::string, NodeId> by_name(found.begin(), found.end());
  for (const auto& [name, id] : ChildrenOf(saved_, saved)) {
    const std::string path = absl::StrCat("clock/", name);
    const auto same = by_name.find(name);
    if (same == by_name.end()) return path;
    std::string difference = CompareAll(id, same->second, path, {"catchup"});
    if (!difference.empty()) return difference;
  }
  return "";
}

// A firmware that is chosen at the start is written out in the live XML only.
std::string PendingComparison::CompareOs() const {
  const NodeId saved = OfSaved("os"), live = OfLive("os");
  if (saved == kNoNode || live == kNoNode) return "";
  const NamedChildren found = ChildrenOf(live_, live);
  const std::map<std::string, NodeId> by_name(found.begin(), found.end());
  static const Names kTexts = {"loader", "nvram", "kernel", "initrd", "cmdline", "dtb"};
  for (const auto& [name, id] : ChildrenOf(saved_, saved)) {
    const std::string& kind = saved_.node(id).name;
    const std::string path = absl::StrCat("os/", name);
    const bool text = IsIn(kTexts, kind) && !saved_.TextOf(id).empty();
    if (!text && kind != "boot" && kind != "bootmenu" && kind != "smbios") continue;
    const auto same = by_name.find(name);
    if (same == by_name.end()) return path;
    std::string difference =
        text ? CompareText(id, same->second, path) : CompareAll(id, same->second, path, {});
    if (!difference.empty()) return difference;
  }
  return "";
}

std::string PendingComparison::CompareDisk(NodeId saved, NodeId live,
                                           const std::string& path) const {
  const NodeId driver = saved_.Child(saved, "driver"), driver_now = live_.Child(live, "driver");
  for (const char* name : {"cache", "io"}) {
    if (driver == kNoNode) break;
    std::string difference = CompareAttribute(driver, driver_now, name, Join(path, "driver"));
    if (!difference.empty()) return difference;
  }
  for (const char* name : {"serial", "boot"}) {
    const NodeId wanted = saved_.Child(saved, name), found = live_.Child(live, name);
    if (wanted == kNoNode) continue;
    if (found == kNoNode) return Join(path, name);
    std::string difference = CompareAll(wanted, found, Join(path, name), {});
    if (!difference.empty()) return difference;
  }
  return "";
}

// The live one shows what a network stands for, and what the host made of it.
std::string PendingComparison::CompareInterface(NodeId saved, NodeId live,
                                                const std::string& path) const {
  const bool of_network = saved_.Value(saved, "type") == "network";
  std::string difference;
  if (!of_network) difference = CompareAttribute(saved, live, "type", path);
  // Of a network that hands out the host's devices the live one shows the device alone.
  const bool hidden = of_network && live_.Value(live, "type") == "hostdev";
  const NodeId source = saved_.Child(saved, "source"), source_now = live_.Child(live, "source");
  for (const char* name : {"network", "bridge", "dev"}) {
    if (source == kNoNode || hidden || !difference.empty()) break;
    difference = CompareAttribute(source, source_now, name, Join(path, "source"));
  }
  for (const char* name : {"model", "boot"}) {
    const NodeId wanted = saved_.Child(saved, name), found = live_.Child(live, name);
    if (wanted == kNoNode || !difference.empty()) continue;
    difference =
        found == kNoNode ? Join(path, name) : CompareAll(wanted, found, Join(path, name), {});
  }
  return difference;
}

std::string PendingComparison::CompareDevice(NodeId saved, NodeId live,
                                             const std::string& path) const {
  const std::string& kind = saved_.node(saved).name;
  if (kind == "disk") return CompareDisk(saved, live, path);
  if (kind == "interface") return CompareInterface(saved, live, path);
  // Its ports and listeners are given at the start, and its password is nobody's business.
  if (kind == "graphics" || kind == "audio") return CompareAttribute(saved, live, "type", path);
  if (kind == "memory") {
    const NodeId target = saved_.Child(saved, "target"), target_now = live_.Child(live, "target");
    const std::string size = saved_.TextOf(saved_.Child(target, "size"));
    if (!SameMemory(size, live_.TextOf(live_.Child(target_now, "size"))))
      return Join(path, "target/size");
    return CompareAttribute(saved, live, "model", path);
  }
  Names skipped = SkippedOfDevice();
  if (IsIn(CharacterDevices(), kind)) skipped.push_back("source");
  return CompareAll(saved, live, path, skipped);
}

std::string PendingComparison::CompareDevices() const {
  const NodeId saved = OfSaved("devices"), live = OfLive("devices");
  if (saved == kNoNode || live == kNoNode) return "";
  const NamedChildren found = ChildrenOf(live_, live);
  std::map<std::string, NodeId> left(found.begin(), found.end());
  for (const auto& [name, id] : ChildrenOf(saved_, saved)) {
    const std::string& kind = saved_.node(id).name;
    if (kind == "controller" || kind == "channel") continue;
    const std::string path = absl::StrCat("devices/", name);
    const auto same = left.find(name);
    if (same == left.end()) {
      if (kind == "disk") continue;  // counted where disks are
      return path;
    }
    std::string difference = CompareDevice(id, same->second, path);
    if (!difference.empty()) return difference;
    left.erase(same);
  }
  for (const auto& [name, id] : found) {
    if (left.contains(name) && IsIn(Pluggable(), live_.node(id).name))
      return absl::StrCat("devices/", name);
  }
  return "";
}

std::string PendingComparison::Compare() const {
  for (const char* name : {"memory", "maxMemory"}) {
    std::string difference = CompareMemory(name);
    if (!difference.empty()) return difference;
  }
  for (const auto part : {&PendingComparison::CompareVcpus, &PendingComparison::CompareCpu,
                          &PendingComparison::CompareClock, &PendingComparison::CompareOs,
                          &PendingComparison::CompareDevices}) {
    std::string difference = (this->*part)();
    if (!difference.empty()) return difference;
  }
  return CompareAll(saved_.root(), live_.root(), "", SkippedOfDomain());
}

}  // namespace

absl::StatusOr<std::string> FirstPending(absl::string_view saved, absl::string_view live) {
  VR_ASSIGN_OR_RETURN(const Document wanted, ParseDocument(saved));
  VR_ASSIGN_OR_RETURN(const Document found, ParseDocument(live));
  return PendingComparison(wanted, found).Compare();
}

}  // namespace virt_reclaim::xml
