// A domain with a guest, through which every discard passes; tests break one thing of it.
#ifndef VIRT_RECLAIM_TESTS_UNIT_DISCARD_CHAIN_WORLD_H_
#define VIRT_RECLAIM_TESTS_UNIT_DISCARD_CHAIN_WORLD_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/byte_size.h"
#include "host/model/discard_chain.h"
#include "host/model/guest_disks.h"

namespace virt_reclaim {

inline GuestDevice Device(const std::string& name, GuestDeviceKind kind, uint64_t discard_max,
                          std::vector<std::string> parents) {
  GuestDevice device;
  device.name = name;
  device.kind = kind;
  device.discard_max = discard_max;
  device.parents = std::move(parents);
  return device;
}

inline GuestDevice GuestDisk(const std::string& name, uint32_t slot,
                             uint64_t discard_max = 2 * kGiB) {
  GuestDevice disk = Device(name, GuestDeviceKind::kDisk, discard_max, {});
  disk.is_disk = true;
  disk.bus_path = absl::StrCat("pci0000:00/0000:00:0", slot, ".0/virtio2");
  return disk;
}

inline GuestFilesystem Filesystem(const std::string& mount_point,
                                  std::vector<GuestDevice> devices) {
  GuestFilesystem filesystem;
  filesystem.type = "ext4";
  filesystem.mount_points = {mount_point};
  filesystem.obstacle = GuestObstacle::kNone;
  filesystem.devices = std::move(devices);
  return filesystem;
}

struct World {
  ChainFacts facts;
  DiskFacts disk;
  ImageStorage storage;

  World() {
    facts.live.type = "kvm";
    facts.live.arch = "x86_64";
    facts.live.machine = "pc-q35-7.2";
    for (uint32_t slot : {5u, 6u}) {
      xml::Disk xml;
      xml.target = slot == 5 ? "vda" : "vdb";
      xml.bus = "virtio";
      xml.device = "disk";
      xml.discard = "unmap";
      xml.source = {"file", "raw", "/images/a.raw"};
      xml.pci = xml::PciAddress{0, 0, slot, 0};
      facts.live.disks.push_back(xml);
    }
    facts.guest.emplace();
    facts.guest->filesystems = {Filesystem("/", {GuestDisk("vda", 5)})};
    disk.usage = {kGiB, 600 * kMiB, kGiB};
    disk.chain = {{"/images/a.raw", "raw", disk.usage, 1, 2}};
    storage.filesystem = "ext4";
    storage.punches = true;
  }

  xml::Disk& xml() { return facts.live.disks.front(); }
  GuestFilesystem& root() { return facts.guest->filesystems.front(); }
  DiscardChain Judge() {
    disk.xml = xml();
    if (facts.guest) facts.guest_to_target = MatchGuestDisks(facts.live, *facts.guest);
    return JudgeDiscardChain(facts, disk, storage);
  }
  // "driver drops discard-ignored" of the first culprit; "" when there is none.
  std::string Culprit() {
    const DiscardChain chain = Judge();
    const Layer* layer = chain.FirstCulprit();
    if (layer == nullptr) return "";
    return absl::StrCat(Name(layer->kind), " ", Name(layer->verdict), " ",
                        Code(layer->reasons.at(0).reason));
  }
  Layer LayerOf(LayerKind kind) {
    for (const Layer& layer : Judge().layers) {
      if (layer.kind == kind) return layer;
    }
    return {};
  }
};

inline std::vector<std::string> Codes(const std::vector<Blocker>& blockers) {
  std::vector<std::string> codes;
  for (const Blocker& blocker : blockers) codes.emplace_back(Code(blocker.reason));
  return codes;
}

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_UNIT_DISCARD_CHAIN_WORLD_H_
