#include "host/services/qemu_guest_agent.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/escape.h"
#include "base/status.h"
#include "host/services/json_fields.h"
#include "host/services/qemu_agent_answer.h"

namespace virt_reclaim {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxFilesystems = 4096;  // the limits of our own agent's contract
constexpr size_t kMaxDisks = 64;
constexpr size_t kMaxWordBytes = 256;
constexpr absl::Duration kListTimeout = absl::Seconds(10);

std::string PrintableField(const Json& object, const char* key, size_t max = kMaxWordBytes) {
  return Printable(TextField(object, key), max);
}

// Absent for what is no whole number, or a negative one: QEMU says -1 for 'none'.
std::optional<uint64_t> WholeNumber(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_unsigned()) return std::nullopt;
  return found->get<uint64_t>();
}

// Where a disk sits on PCI, as a sysfs path has it; empty: not said. A bus number above 0 is the
// guest firmware's, and the bridges on the way qemu-guest-agent does not tell: then only the end of
// the path is there.
std::string BusPathOf(const Json& disk, absl::string_view bus_type) {
  const auto pci = disk.find("pci-controller");
  if (pci == disk.end() || !pci->is_object()) return "";
  const uint64_t bus = WholeNumber(*pci, "bus").value_or(UINT64_MAX);
  const uint64_t slot = WholeNumber(*pci, "slot").value_or(UINT64_MAX);
  const uint64_t function = WholeNumber(*pci, "function").value_or(UINT64_MAX);
  if (WholeNumber(*pci, "domain") != 0 || bus > 255 || slot > 31 || function > 7) return "";
  const bool is_named = bus_type == "virtio" || bus_type == "usb";
  return absl::StrFormat("%s0000:%02x:%02x.%x%s", bus == 0 ? "pci0000:00/" : "", bus, slot,
                         function, is_named ? absl::StrCat("/", bus_type) : "");
}

// Where the guest sees a disk, in the words of our own agent.
GuestDevice DeviceOf(const Json& disk) {
  GuestDevice device;
  device.is_disk = true;
  device.serial = PrintableField(disk, "serial");
  const std::string bus = PrintableField(disk, "bus-type");
  device.bus_path = BusPathOf(disk, bus);
  const auto channel = WholeNumber(disk, "bus");
  const auto target = WholeNumber(disk, "target");
  const auto unit = WholeNumber(disk, "unit");
  if (bus == "scsi" && target && unit) {
    device.scsi_address = absl::StrCat("0:", channel.value_or(0), ":", *target, ":", *unit);
  } else if (bus == "sata" && unit && *unit < 256) {
    device.ata_port = static_cast<uint32_t>(*unit) + 1;
  } else if (bus == "ide" && channel && *channel < 256 && unit) {
    device.ata_port = static_cast<uint32_t>(*channel) + 1;
    device.scsi_address = absl::StrCat("0:0:", *unit, ":0");
  }
  device.name = PrintableField(disk, "dev");
  if (absl::StartsWith(device.name, "/dev/")) device.name.erase(0, 5);
  // Before QEMU 3.1 it has no name: its place is one.
  if (device.name.empty())
    device.name = absl::StrCat(device.bus_path, " ", device.scsi_address, " ", device.ata_port);
  return device;
}

GuestFilesystem FilesystemOf(const Json& entry) {
  GuestFilesystem filesystem;
  filesystem.source = PrintableField(entry, "name");
  filesystem.type = PrintableField(entry, "type");
  filesystem.mount_points = {PrintableField(entry, "mountpoint", kMaxPrintedBytes)};
  filesystem.size = WholeNumber(entry, "total-bytes").value_or(0);
  // Absent before QEMU 3.0: then all of it counts as used.
  filesystem.used =
      std::min(WholeNumber(entry, "used-bytes").value_or(filesystem.size), filesystem.size);
  filesystem.free = filesystem.size - filesystem.used;
  const auto disks = entry.find("disk");
  if (disks != entry.end() && disks->is_array()) {
    for (const Json& disk : *disks) {
      if (filesystem.devices.size() >= kMaxDisks) break;
      if (disk.is_object()) filesystem.devices.push_back(DeviceOf(disk));
    }
  }
  filesystem.obstacle =
      filesystem.devices.empty() ? GuestObstacle::kNoDevice : GuestObstacle::kNone;
  return filesystem;
}

bool SameDevices(const GuestFilesystem& a, const GuestFilesystem& b) {
  return std::equal(a.devices.begin(), a.devices.end(), b.devices.begin(), b.devices.end(),
                    [](const GuestDevice& one, const GuestDevice& other) {
                      return one.name == other.name && one.serial == other.serial &&
                             one.bus_path == other.bus_path &&
                             one.scsi_address == other.scsi_address &&
                             one.ata_port == other.ata_port;
                    });
}

// qemu-guest-agent has texts where errno would do; libc's among them are those of the C locale.
void ReadError(const std::string& text, absl::string_view type, GuestTrim& trim) {
  trim.result = GuestTrimResult::kFailed;
  trim.error_name = text;
  if (absl::StrContains(text, "not supported")) {  // ENOTTY and EOPNOTSUPP alike
    const bool can = type == "ext4" || type == "xfs" || type == "btrfs" || type == "ext3";
    trim.obstacle = can ? GuestObstacle::kDiskNotSupported : GuestObstacle::kTypeNotSupported;
    trim.error_name = can ? "EOPNOTSUPP" : "ENOTTY";
  } else if (absl::StrContains(text, "Input/output error")) {
    trim.error_name = "EIO";
  }
}

// Of two mounts of one filesystem.
bool IsBetter(const GuestTrim& trim, const GuestTrim& other) {
  if (trim.error_name == "EIO" || other.error_name == "EIO") return trim.error_name == "EIO";
  const bool done = trim.result == GuestTrimResult::kDone;
  if (done != (other.result == GuestTrimResult::kDone)) return done;
  return trim.trimmed > other.trimmed;
}

class QemuGuestAgent : public GuestAgent {
 public:
  QemuGuestAgent(Hypervisor& hypervisor, std::string uuid)
      : hypervisor_(hypervisor), uuid_(std::move(uuid)) {}

  absl::StatusOr<GuestFacts> GetInfo(absl::Duration timeout, std::stop_token stop) override {
    VR_RETURN_IF_ERROR(Ask("guest-ping", timeout, stop).status());
    return GuestFacts{};
  }

  absl::StatusOr<std::vector<GuestFilesystem>> ListFilesystems(absl::Duration timeout,
                                                               std::stop_token stop) override {
    VR_ASSIGN_OR_RETURN(const std::string answer, Ask("guest-get-fsinfo", timeout, stop));
    VR_ASSIGN_OR_RETURN(filesystems_, ParseFsInfo(answer));
    return filesystems_;
  }

  absl::Status Trim(const GuestTrimOptions& options, absl::Duration timeout, std::stop_token stop,
                    const std::function<void(const GuestTrimProgress&)>& progress,
                    std::vector<GuestTrim>& finished) override {
    if (!options.mount_points.empty())
      return absl::InvalidArgumentError("qemu-guest-agent trims every filesystem, or none");
    if (filesystems_.empty())  // only for the disks below: without them the trim is no worse
      ListFilesystems(std::min(timeout, kListTimeout), stop).IgnoreError();
    if (progress) progress({"all filesystems", 0, 0, 0});
    const std::string arguments =
        options.minimum == 0 ? ""
                             : absl::StrCat(R"(,"arguments":{"minimum":)", options.minimum, "}");
    VR_ASSIGN_OR_RETURN(const std::string answer, Ask("guest-fstrim", timeout, stop, arguments));
    VR_ASSIGN_OR_RETURN(finished, ParseFstrim(answer, filesystems_));
    return absl::OkStatus();
  }

 private:
  absl::StatusOr<std::string> Ask(absl::string_view command, absl::Duration timeout,
                                  const std::stop_token& stop, absl::string_view arguments = "") {
    return hypervisor_.QemuAgentCommand(
        uuid_, absl::StrCat(R"({"execute":")", command, "\"", arguments, "}"), timeout, stop);
  }

  Hypervisor& hypervisor_;
  const std::string uuid_;
  std::vector<GuestFilesystem> filesystems_;
};

}  // namespace

std::optional<Blocker> FreezeBlocker(const absl::StatusOr<std::string>& answer) {
  const absl::StatusOr<Json> said =
      answer.ok() ? QemuAgentReturn(*answer) : absl::StatusOr<Json>(answer.status());
  if (said.ok() && *said == "thawed") return std::nullopt;
  if (said.ok() && *said == "frozen") return Blocker{Reason::kFrozen, ""};
  const std::string message = Printable(said.ok() ? "" : said.status().message());
  // Not of one that was disabled: it may freeze all the same.
  if (!absl::IsDeadlineExceeded(said.status()) && absl::EndsWith(message, "has not been found"))
    return std::nullopt;
  const std::string detail =
      absl::StrCat("qemu-guest-agent does not say whether the guest's filesystems are frozen",
                   message.empty() ? "" : ": ", message);
  if (absl::IsDeadlineExceeded(said.status())) return Blocker{Reason::kAgentSilent, detail};
  if (absl::IsAborted(said.status())) return Blocker{Reason::kBusy, detail};
  return Blocker{Reason::kAgentFailed, detail};
}

absl::StatusOr<std::vector<GuestFilesystem>> ParseFsInfo(absl::string_view json) {
  VR_ASSIGN_OR_RETURN(const Json list, QemuAgentReturn(json));
  if (!list.is_array()) return absl::InternalError("qemu-guest-agent: no list of filesystems");
  std::vector<GuestFilesystem> filesystems;
  std::map<std::string, size_t> known;  // the first of each source
  size_t entries = 0;
  for (const Json& entry : list) {
    if (!entry.is_object()) continue;
    if (++entries > kMaxFilesystems) break;
    GuestFilesystem filesystem = FilesystemOf(entry);
    // A bind mount or another subvolume has an entry of its own, with the numbers of the whole.
    const auto [first, is_new] = known.try_emplace(filesystem.source, filesystems.size());
    const bool again = !is_new && !filesystem.source.empty() && !filesystem.devices.empty() &&
                       SameDevices(filesystems[first->second], filesystem);
    if (again) {
      filesystems[first->second].mount_points.push_back(filesystem.mount_points.front());
    } else {
      filesystems.push_back(std::move(filesystem));
    }
  }
  return filesystems;
}

absl::StatusOr<std::vector<GuestTrim>> ParseFstrim(
    absl::string_view json, const std::vector<GuestFilesystem>& filesystems) {
  VR_ASSIGN_OR_RETURN(const Json answer, QemuAgentReturn(json));
  std::vector<GuestTrim> trims;
  // Before QEMU 2.4 it only says that it is done.
  const auto paths = answer.is_object() ? answer.find("paths") : answer.end();
  if (paths == answer.end() || !paths->is_array()) return trims;
  std::map<absl::string_view, const GuestFilesystem*> mounted_at;
  for (const GuestFilesystem& filesystem : filesystems) {
    for (const std::string& point : filesystem.mount_points)
      mounted_at.try_emplace(point, &filesystem);
  }
  std::map<const GuestFilesystem*, size_t> trimmed;  // its place in `trims`
  for (const Json& entry : *paths) {
    if (trims.size() >= kMaxFilesystems) break;
    if (!entry.is_object()) continue;
    GuestTrim trim;
    trim.mount_point = PrintableField(entry, "path", kMaxPrintedBytes);
    trim.trimmed = WholeNumber(entry, "trimmed").value_or(0);
    trim.result = GuestTrimResult::kDone;
    trim.obstacle = GuestObstacle::kNone;
    const auto mounted = mounted_at.find(trim.mount_point);
    const GuestFilesystem* filesystem = mounted == mounted_at.end() ? nullptr : mounted->second;
    absl::string_view type;
    if (filesystem != nullptr) {
      type = filesystem->type;
      trim.source = filesystem->source;
      for (const GuestDevice& device : filesystem->devices) trim.disks.push_back(device.name);
    }
    if (entry.contains("error")) ReadError(PrintableField(entry, "error"), type, trim);
    // It trims each mount of a filesystem: what was trimmed at one of them counts, once.
    const auto [first, is_new] = trimmed.try_emplace(filesystem, trims.size());
    if (filesystem == nullptr || is_new) {
      trims.push_back(std::move(trim));
    } else if (IsBetter(trim, trims[first->second])) {
      trims[first->second] = std::move(trim);
    }
  }
  return trims;
}

std::unique_ptr<GuestAgent> NewQemuGuestAgent(Hypervisor& hypervisor, std::string uuid) {
  return std::make_unique<QemuGuestAgent>(hypervisor, std::move(uuid));
}

}  // namespace virt_reclaim
