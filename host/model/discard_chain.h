// The way of a discard from the guest's filesystems down to the host's storage, layer by layer:
// which of them passes it on, and which is the first that does not. `report` judges a disk by the
// same functions, so that the two never say different things. Pure; any thread.
#ifndef VIRT_RECLAIM_HOST_MODEL_DISCARD_CHAIN_H_
#define VIRT_RECLAIM_HOST_MODEL_DISCARD_CHAIN_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "host/model/facts.h"
#include "host/model/reason.h"

namespace virt_reclaim {

enum class LayerKind {
  kFilesystem,   // of the guest, with its mount options
  kGuestDevice,  // between a filesystem and the disk: dm-crypt, LVM, md, loop
  kGuestDisk,    // the disk, as the guest's kernel sees it
  kBus,          // the virtual device, by bus and machine type
  kDriver,       // the disk's <driver>
  kImage,
  kStorage,  // what the image lies on
};
absl::string_view Name(LayerKind kind);  // "guest-device"

enum class LayerVerdict {
  kOk,
  kPartly,  // passes them on, and yet not all of what the guest frees comes back
  kDrops,
  kUnknown,
};
absl::string_view Name(LayerVerdict verdict);

struct Layer {
  LayerKind kind = LayerKind::kFilesystem;
  LayerVerdict verdict = LayerVerdict::kUnknown;
  std::string name;  // "/srv", "dm-0", "virtio"; printable
  std::string detail;
  std::vector<Blocker> reasons;  // why not ok; the first is the one to do something about
  std::vector<Blocker> remarks;  // what to know, though the verdict does not depend on it
};

struct DiscardChain {
  std::string target;         // of the disk
  std::vector<Layer> layers;  // from the guest down to the host

  // The layer to begin with: the first that drops discards, else the first that lets only a part
  // through. Null: there is none.
  const Layer* FirstCulprit() const;
  // Drops if any layer does, else partly if any, else unknown if any.
  LayerVerdict Verdict() const;
};

struct ChainFacts {
  xml::Domain live;                  // the XML the disks work under now
  std::optional<xml::Domain> saved;  // what the next start uses; empty: the same, or not known
  std::optional<GuestFacts> guest;
  std::map<std::string, std::string> guest_to_target;  // MatchGuestDisks of `live` and `guest`
  std::vector<Blocker> guest_unknown;                  // why there is no `guest`
  std::map<std::string, QemuDevice> qemu;              // by target; empty: not asked
};

// `disk` is one of `facts.live`; `storage` is what lies below its image.
DiscardChain JudgeDiscardChain(const ChainFacts& facts, const DiskFacts& disk,
                               const ImageStorage& storage);

// The single judgements that report and explain share. Empty: nothing known against it.
std::optional<Blocker> BusBlocker(const xml::Domain& domain, const xml::Disk& disk);
std::optional<Blocker> DriverBlocker(const xml::Disk& disk);
// Why nothing is known of the image.
std::optional<Blocker> ImageBlocker(const DiskFacts& disk);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_MODEL_DISCARD_CHAIN_H_
