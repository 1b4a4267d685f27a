#include "host/model/same_definition.h"

#include <algorithm>

namespace virt_reclaim {
namespace {

template <typename T, typename Same>
bool AllFound(const std::vector<T>& wanted, const std::vector<T>& found, Same same) {
  return std::all_of(wanted.begin(), wanted.end(), [&](const T& one) {
    return std::any_of(found.begin(), found.end(),
                       [&](const T& other) { return same(one, other); });
  });
}

}  // namespace

bool SameWhereItMatters(const xml::Domain& wanted, const xml::Domain& found) {
  const auto same_disk = [](const xml::Disk& a, const xml::Disk& b) {
    return a.target == b.target && a.bus == b.bus && a.device == b.device &&
           a.discard == b.discard && a.detect_zeroes == b.detect_zeroes &&
           (a.source.path == b.source.path || a.device == "cdrom" || a.device == "floppy");
  };
  const auto same_controller = [](const xml::Controller& a, const xml::Controller& b) {
    return a.type == b.type && a.index == b.index && (a.model.empty() || a.model == b.model);
  };
  const auto same_channel = [](const xml::Channel& a, const xml::Channel& b) {
    return a.name == b.name;
  };
  return wanted.machine == found.machine && wanted.disks.size() == found.disks.size() &&
         AllFound(wanted.disks, found.disks, same_disk) &&
         AllFound(wanted.controllers, found.controllers, same_controller) &&
         wanted.channels.size() == found.channels.size() &&
         AllFound(wanted.channels, found.channels, same_channel);
}

}  // namespace virt_reclaim
