#include "xml-tools/bus_change.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/contains.h"
#include "xml-tools/judge.h"
#include "xml-tools/targets.h"
#include "xml-tools/windows.h"

namespace virt_reclaim::xml {
namespace {

constexpr absl::string_view kVirtioScsiModels[] = {"virtio-scsi", "virtio-transitional",
                                                   "virtio-non-transitional"};
// Of <driver>, legal on bus virtio only: define fails with them on any other. These mean the same
// on the controller's <driver> ...
constexpr absl::string_view kMoving[] = {"iothread", "queues", "ioeventfd",  "iommu",
                                         "ats",      "packed", "page_per_vq"};
// ... and for these the controller has no attribute.
constexpr absl::string_view kVanishing[] = {"event_idx", "queue_size"};
// Far beyond any domain; places and names are looked for among all disks, each time.
constexpr size_t kMaxDisks = 1000;
constexpr absl::string_view kOnce[] = {"driver", "target", "address", "alias"};

struct Place {
  std::string bus;
  uint32_t index = 0;
  size_t disk = 0;
};

// As libvirt's virDomainDiskInsert keeps its list: a disk goes before the first one of its bus with
// a later name, else behind the last of its bus, else to the end. Index of the first hard disk in
// that list; the number of disks when there is none.
size_t FirstDisk(const Domain& domain, const std::map<size_t, std::string>& moved) {
  std::vector<Place> list;
  for (size_t i = 0; i < domain.disks.size(); ++i) {
    const auto found = moved.find(i);
    const Place place = found == moved.end() ? Place{BusOf(domain.disks[i]),
                                                     IndexOfTarget(domain.disks[i].target), i}
                                             : Place{"scsi", IndexOfTarget(found->second), i};
    size_t at = list.size();
    bool seen = false;
    for (size_t k = list.size(); k-- > 0;) {
      if (list[k].bus != place.bus) continue;
      if (list[k].index > place.index) {
        at = k;
      } else if (!seen) {
        at = k + 1;
      }
      seen = true;
    }
    list.insert(list.begin() + static_cast<std::ptrdiff_t>(at), place);
  }
  for (const Place& place : list) {
    if (domain.disks[place.disk].device == "disk") return place.disk;
  }
  return domain.disks.size();
}

}  // namespace

BusMover::BusMover(const Document& document, const Domain& domain, const std::vector<NodeId>& nodes)
    : document_(document), domain_(domain), nodes_(nodes), windows_(SignOfWindows(document)) {
  ReadControllers();
  ReadAddresses();
}

void BusMover::ReadControllers() {
  if (!nodes_.empty()) place_ = nodes_.back();
  for (const NodeId devices : document_.Children(document_.root(), "devices")) {
    for (const NodeId node : document_.Children(devices, "controller")) {
      place_ = node;
      if (document_.Value(node, "type") != "scsi") continue;
      Scsi controller;
      const std::string index = document_.Value(node, "index");
      const auto same = std::find_if(
          domain_.controllers.begin(), domain_.controllers.end(),
          [&](const Controller& c) { return c.type == "scsi" && absl::StrCat(c.index) == index; });
      // Without an index libvirt takes the first one that is free: not to be relied on.
      if (same == domain_.controllers.end()) {
        indexes_.insert(0);
        continue;
      }
      controller.index = same->index;
      indexes_.insert(controller.index);
      if (!Contains(kVirtioScsiModels, document_.Value(node, "model"))) continue;
      const NodeId driver = document_.Child(node, "driver");
      for (const absl::string_view name : kMoving) {
        if (const Attribute* const found = document_.FindAttribute(driver, name))
          controller.settings[found->name] = found->value;
      }
      controllers_.push_back(std::move(controller));
    }
  }
}

void BusMover::ReadAddresses() {
  const auto take = [&](const DriveAddress& drive) {
    indexes_.insert(drive.controller);
    addresses_.insert({drive.controller, drive.bus, drive.target, drive.unit});
  };
  for (const Disk& disk : domain_.disks) {
    targets_.insert(disk.target);
    if (BusOf(disk) == "scsi") take(ScsiAddress(disk));
  }
  for (const DriveAddress& drive : domain_.scsi_hostdevs) take(drive);
}

std::optional<Refusal> BusMover::RefusalOf(size_t i) const {
  const Disk& disk = domain_.disks[i];
  if (domain_.disks.size() > kMaxDisks) {
    return Refuse(disk, "bus-change-refused",
                  absl::StrCat("the domain has more than ", kMaxDisks, " disks"));
  }
  if (!windows_.empty() && MayBoot(document_, domain_, nodes_, i)) {
    return Refuse(disk, "windows-boot-disk",
                  absl::StrCat("the guest is Windows (", windows_,
                               ") and may boot from the disk: on another bus it stops with 0x7B"));
  }
  for (const absl::string_view once : kOnce) {
    if (document_.Children(nodes_[i], once).size() > 1)
      return Refuse(disk, "bus-change-refused", absl::StrCat("it has more than one <", once, ">"));
  }
  if (document_.Child(nodes_[i], "target") == kNoNode)
    return Refuse(disk, "bus-change-refused", "it has no <target>");
  if (document_.Value(document_.Child(nodes_[i], "address"), "type") == "unassigned")
    return Refuse(disk, "bus-change-refused", "it is defined without being attached");
  // Both are refused by libvirt's QEMU driver on bus scsi, although the schema takes them.
  if (document_.Child(nodes_[i], "acpi") != kNoNode)
    return Refuse(disk, "bus-change-refused", "it has an ACPI index, which only PCI devices have");
  if (document_.FindAttribute(document_.Child(nodes_[i], "geometry"), "trans") != nullptr)
    return Refuse(disk, "bus-change-refused", "its geometry has a translation, which only IDE has");
  const NodeId driver = document_.Child(nodes_[i], "driver");
  if (driver != kNoNode && document_.Child(driver, "iothreads") != kNoNode) {
    return Refuse(disk, "bus-change-refused",
                  "its queues are spread over several iothreads, which virtio-scsi cannot");
  }
  return std::nullopt;
}

BusMover::Settings BusMover::TakeSettings(size_t i) {
  Settings settings;
  const NodeId driver = document_.Child(nodes_[i], "driver");
  for (const absl::string_view name : kMoving) {
    const Attribute* const found = document_.FindAttribute(driver, name);
    if (found == nullptr) continue;
    settings[found->name] = found->value;
    edits.push_back(RemoveAttribute{driver, found->name});
  }
  for (const absl::string_view name : kVanishing) {
    if (document_.FindAttribute(driver, name) != nullptr)
      edits.push_back(RemoveAttribute{driver, std::string(name)});
  }
  return settings;
}

// A controller that has exactly what the disk had; nothing wanted is nothing to compare.
BusMover::Scsi& BusMover::ControllerFor(size_t i, const Settings& settings) {
  for (Scsi& controller : controllers_) {
    if (controller.settings == settings || (settings.empty() && !controller.is_new))
      return controller;
  }
  Scsi controller;
  while (indexes_.count(controller.index) != 0) ++controller.index;
  controller.settings = settings;
  controller.is_new = true;
  // The slot that the disk leaves: on q35 it is a root port, of which there may be no other free.
  const NodeId address = document_.Child(nodes_[i], "address");
  const std::string type = document_.Value(address, "type");
  if ((type == "pci" || type == "ccw") && document_.node(address).first_child == kNoNode) {
    const Node& node = document_.node(address);
    for (uint32_t a = 0; a < node.attributes; ++a) {
      const Attribute& attribute = document_.attribute(node, a);
      if (attribute.plain) controller.address.emplace_back(attribute.name, attribute.value);
    }
  }
  indexes_.insert(controller.index);
  return controllers_.emplace_back(std::move(controller));
}

// The first name that is free behind those of the disks moved before: libvirt sorts by name, and
// the order of the disks is to stay.
std::string BusMover::FreeTarget(size_t i) {
  const std::string& now = domain_.disks[i].target;
  if (absl::StartsWith(now, "sd") && IndexOfTarget(now) >= next_target_) {
    next_target_ = IndexOfTarget(now) + 1;
    return now;
  }
  while (targets_.count(ScsiTarget(next_target_)) != 0) ++next_target_;
  return ScsiTarget(next_target_++);
}

uint32_t BusMover::FreeUnit(uint32_t controller) {
  uint32_t unit = 0;
  while (!addresses_.insert({controller, 0, 0, unit}).second) ++unit;
  return unit;
}

void BusMover::Move(size_t i) {
  const Disk& disk = domain_.disks[i];
  const NodeId node = nodes_[i], target = document_.Child(node, "target");
  const Settings settings = TakeSettings(i);
  const Scsi& controller = ControllerFor(i, settings);
  const std::string name = FreeTarget(i);
  moved_[i] = name;

  edits.push_back(SetAttribute{target, "bus", "scsi"});
  changes.push_back({disk.target, "bus", disk.bus, "scsi",
                     absl::StrCat("on controller ", controller.index, " of model virtio-scsi")});
  if (name != disk.target) {
    edits.push_back(SetAttribute{target, "dev", name});
    changes.push_back({disk.target, "target", disk.target, name, "the first name that was free"});
  }
  if (document_.FindAttribute(target, "removable") != nullptr)
    edits.push_back(RemoveAttribute{target, "removable"});
  if (document_.FindAttribute(node, "model") != nullptr)
    edits.push_back(RemoveAttribute{node, "model"});
  if (const NodeId address = document_.Child(node, "address"); address != kNoNode)
    edits.push_back(RemoveElement{address});
  // libvirt makes such a name anew, of bus and address; only "ua-..." is the user's.
  if (const NodeId alias = document_.Child(node, "alias");
      alias != kNoNode && !absl::StartsWith(disk.alias, "ua-"))
    edits.push_back(RemoveElement{alias});
  // Never left to libvirt: it derives the address from the name, and from the eighth disk on adds
  // a second controller of another model.
  edits.push_back(InsertAfter{target,
                              {"address",
                               {{"type", "drive"},
                                {"controller", absl::StrCat(controller.index)},
                                {"bus", "0"},
                                {"target", "0"},
                                {"unit", absl::StrCat(FreeUnit(controller.index))}},
                               {}}});
  warnings.push_back(Refuse(
      disk, "guest-unchecked",
      "the guest must have virtio_scsi in its initramfs and must not name the disk by path"));
}

bool BusMover::ChangesFirstDisk() const {
  if (moved_.empty()) return false;
  for (const NodeId node : nodes_) {
    if (document_.Child(node, "boot") != kNoNode) return false;
  }
  return FirstDisk(domain_, {}) != FirstDisk(domain_, moved_);
}

void BusMover::Finish() {
  for (const Scsi& controller : controllers_) {
    if (!controller.is_new) continue;
    NewElement element{"controller",
                       {{"type", "scsi"},
                        {"index", absl::StrCat(controller.index)},
                        // Without a model x86 gets an LSI controller, pseries an ibmvscsi.
                        {"model", "virtio-scsi"}},
                       {}};
    if (!controller.settings.empty()) {
      NewElement driver{"driver", {}, {}};
      for (const auto& [name, value] : controller.settings)
        driver.attributes.emplace_back(name, value);
      element.children.push_back(std::move(driver));
    }
    if (!controller.address.empty())
      element.children.push_back({"address", controller.address, {}});
    edits.push_back(InsertAfter{place_, std::move(element)});
    changes.push_back({"", "controller", "",
                       absl::StrCat("scsi ", controller.index, " virtio-scsi"),
                       "for the disks that move to it"});
  }
}

}  // namespace virt_reclaim::xml
