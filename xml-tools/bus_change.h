// Moves disks to virtio-scsi, with everything that has to move with them: the target's name, the
// address, the controller and what only virtio-blk understands. Pure. Any thread. Internal to
// xml-tools.
#ifndef VIRT_RECLAIM_XML_TOOLS_BUS_CHANGE_H_
#define VIRT_RECLAIM_XML_TOOLS_BUS_CHANGE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/status/status.h"
#include "xml-tools/document.h"
#include "xml-tools/domain.h"
#include "xml-tools/edit.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {

// Lives for one rewrite of one domain; `disks[i]` was read from `nodes[i]`.
class BusMover {
 public:
  BusMover(const Document& document, const Domain& domain, const std::vector<NodeId>& nodes);

  // Why the disk must not move: nullopt when it may.
  std::optional<Refusal> RefusalOf(size_t disk) const;

  // Only after RefusalOf said nothing. The edits of controllers come from Finish.
  void Move(size_t disk);

  // Adds the new controllers. Once, behind the last Move.
  void Finish();

  // Whether libvirt would find another disk first than before, which matters where no <boot order>
  // says from which one to boot: it sorts the disks of a bus by name.
  bool ChangesFirstDisk() const;

  std::vector<Edit> edits;
  std::vector<Change> changes;
  std::vector<Refusal> warnings;

 private:
  using Settings = std::map<std::string, std::string>;  // attributes of a controller's <driver>
  struct Scsi {
    uint32_t index = 0;
    Settings settings;
    bool is_new = false;
    std::vector<std::pair<std::string, std::string>> address;  // of a new one; empty: libvirt's
  };

  void ReadControllers();
  void ReadAddresses();
  Settings TakeSettings(size_t disk);
  Scsi& ControllerFor(size_t disk, const Settings& settings);
  std::string FreeTarget(size_t disk);
  uint32_t FreeUnit(uint32_t controller);

  const Document& document_;
  const Domain& domain_;
  const std::vector<NodeId>& nodes_;
  std::string windows_;  // the sign of it
  std::set<std::string> targets_;
  uint32_t next_target_ = 0;
  std::map<size_t, std::string> moved_;  // disk -> its new name
  std::set<uint32_t> indexes_;  // of SCSI controllers, also of those libvirt would add by itself
  std::set<std::tuple<uint32_t, uint32_t, uint32_t, uint32_t>> addresses_;
  std::vector<Scsi> controllers_;
  NodeId place_ = kNoNode;  // new controllers come behind this element
};

}  // namespace virt_reclaim::xml

#endif  // VIRT_RECLAIM_XML_TOOLS_BUS_CHANGE_H_
