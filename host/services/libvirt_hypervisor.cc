// The real Hypervisor: libvirt's C API, one connection, and one thread for libvirt's event loop.
#include <libvirt/libvirt-qemu.h>
#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/escape.h"
#include "base/handle.h"
#include "base/status.h"
#include "host/services/channel_socket.h"
#include "host/services/domain_directory.h"
#include "host/services/hypervisor.h"
#include "host/services/libvirt_agent_command.h"
#include "host/services/libvirt_backup.h"
#include "host/services/libvirt_connect.h"
#include "host/services/libvirt_error.h"
#include "host/services/libvirt_error_watch.h"
#include "host/services/libvirt_port.h"
#include "host/services/monitor_calls.h"
#include "host/services/qemu_guest_agent.h"
#include "host/services/qmp.h"
#include "xml-tools/capabilities.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kFreezeQuestion = absl::Seconds(2);
// QEMU's monitor answers in milliseconds, of a QEMU that waits for a slow disk in a second or two.
constexpr absl::Duration kQemuQuestion = absl::Seconds(5);
// Of jobs: libvirt waits up to 30 s for somebody else's question to the same QEMU.
constexpr absl::Duration kJobQuestion = absl::Seconds(35);
constexpr int kKeepAliveSeconds = 5;  // a remote libvirtd that says nothing for 5 * 4 s is gone
constexpr unsigned kKeepAliveCount = 3;

using DomainHandle = Handle<virDomain, virDomainFree>;

std::string TakeString(char* text) {
  Handle<char, free> owner(text);
  return text == nullptr ? "" : text;
}

DomainState StateOf(int state) {
  switch (state) {
    case VIR_DOMAIN_RUNNING:
    case VIR_DOMAIN_BLOCKED:
      return DomainState::kRunning;
    case VIR_DOMAIN_PAUSED:
      return DomainState::kPaused;
    case VIR_DOMAIN_SHUTDOWN:
      return DomainState::kShuttingDown;
    case VIR_DOMAIN_SHUTOFF:
      return DomainState::kShutOff;
    case VIR_DOMAIN_CRASHED:
      return DomainState::kCrashed;
    case VIR_DOMAIN_PMSUSPENDED:
      return DomainState::kSuspended;
    default:
      return DomainState::kUnknown;
  }
}

// libvirt's statistics: what the driver does not know is -1.
uint64_t KnownOrNone(long long value) {
  return static_cast<uint64_t>(std::max<long long>(value, 0));
}

// What forbids a trim, of the domain and of each of its disks.
absl::StatusOr<std::vector<Blocker>> JobsOf(virDomainPtr domain,
                                            const std::vector<xml::Disk>& disks) {
  std::vector<Blocker> found;
  virDomainJobInfo job{};
  if (virDomainGetJobInfo(domain, &job) != 0) {
    VR_RETURN_IF_ERROR(LibvirtJobStatus(domain));
  } else if (job.type != VIR_DOMAIN_JOB_NONE) {
    found.push_back({Reason::kJobActive, ""});
  }
  for (const xml::Disk& disk : disks) {
    virDomainBlockJobInfo block_job{};
    const int jobs =
        disk.has_mirror ? 1 : virDomainGetBlockJobInfo(domain, disk.target.c_str(), &block_job, 0);
    if (jobs < 0) VR_RETURN_IF_ERROR(LibvirtJobStatus(domain));
    if (jobs > 0) found.push_back({Reason::kBlockJob, Printable(disk.target)});
  }
  return found;
}

class LibvirtHypervisor : public Hypervisor {
 public:
  explicit LibvirtHypervisor(OpenedLibvirt opened)
      : connection_(std::move(opened.connection)), uri_(std::move(opened.uri)) {
    const char* type = virConnectGetType(connection_.get());
    // "qemu:///system" and "qemu+unix:///..." are this machine; "qemu+ssh://host/..." is not.
    embedded_ = absl::StartsWith(uri_, "qemu:///embed");
    const size_t authority = uri_.find("://");
    const bool has_host =
        authority != std::string::npos && authority + 3 < uri_.size() && uri_[authority + 3] != '/';
    const absl::string_view driver = type == nullptr ? "" : type;
    local_ = driver == "QEMU" && !has_host;
    // The test driver's images are made up, but who writes its XML may have sockets behind it.
    sockets_are_local_ = local_ || (driver == "TEST" && !has_host);
  }

  std::string Uri() const override { return uri_; }
  bool ImagesAreLocal() const override { return local_; }

  absl::StatusOr<std::vector<DomainSummary>> ListDomains() override {
    virDomainPtr* list = nullptr;
    const int count = virConnectListAllDomains(connection_.get(), &list, 0);
    if (count < 0) return LibvirtStatus("list domains");
    Handle<virDomainPtr, free> owner(list);
    std::vector<DomainSummary> summaries;
    const std::lock_guard lock(mutex_);
    for (int i = 0; i < count; ++i) {
      DomainHandle domain(list[i]);
      char uuid[VIR_UUID_STRING_BUFLEN] = "";
      if (virDomainGetUUIDString(domain.get(), uuid) != 0) continue;
      DomainSummary summary;
      summary.uuid = uuid;
      summary.name = virDomainGetName(domain.get());
      int state = 0;
      if (virDomainGetState(domain.get(), &state, nullptr, 0) == 0) summary.state = StateOf(state);
      summary.persistent = virDomainIsPersistent(domain.get()) != 0;
      summaries.push_back(std::move(summary));
      domains_[uuid] = std::move(domain);
    }
    virResetLastError();
    return summaries;
  }

  absl::StatusOr<std::string> DomainXml(const std::string& uuid, Xml kind) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    unsigned flags = 0;
    if (kind == Xml::kInactive) flags = VIR_DOMAIN_XML_INACTIVE;
    if (kind == Xml::kInactiveWithSecrets) flags = VIR_DOMAIN_XML_INACTIVE | VIR_DOMAIN_XML_SECURE;
    while (true) {
      char* xml = virDomainGetXMLDesc(domain, flags);
      if (xml == nullptr) return LibvirtStatus("read its XML");
      std::string text = TakeString(xml);
      if (kind != Xml::kLive || !ChannelStatesMayBeStale(text)) return text;
      absl::SleepFor(absl::Milliseconds(20));
    }
  }

  absl::StatusOr<Usage> BlockUsage(const std::string& uuid, const std::string& target) override {
    return AskQemu<Usage>(uuid, kQemuQuestion,
                          [target](virDomainPtr domain) -> absl::StatusOr<Usage> {
                            virDomainBlockInfo info{};
                            if (virDomainGetBlockInfo(domain, target.c_str(), &info, 0) != 0)
                              return LibvirtStatus("read block info");
                            return Usage{info.capacity, info.allocation, info.physical};
                          });
  }

  absl::StatusOr<std::vector<Blocker>> Jobs(const std::string& uuid,
                                            const xml::Domain& live) override {
    return JobsWithin(kQemuQuestion, uuid, live);
  }

  absl::StatusOr<std::vector<Blocker>> Activity(const std::string& uuid,
                                                const xml::Domain& live) override {
    VR_ASSIGN_OR_RETURN(std::vector<Blocker> found, JobsWithin(kJobQuestion, uuid, live));
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    if (auto frozen = AskFrozen(domain, live)) found.push_back(*std::move(frozen));
    virResetLastError();
    return found;
  }

  absl::StatusOr<bool> HasManagedSave(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    const int has = virDomainHasManagedSaveImage(domain, 0);
    if (has < 0) return LibvirtStatus("ask for a managed save image");
    return has == 1;
  }

  absl::StatusOr<uint64_t> DeviceProperty(const std::string& uuid, const std::string& alias,
                                          const std::string& property) override {
    const std::string command = QomGetCommand(alias, property);
    return AskQemu<uint64_t>(
        uuid, kQemuQuestion, [command](virDomainPtr domain) -> absl::StatusOr<uint64_t> {
          char* reply = nullptr;
          if (virDomainQemuMonitorCommand(domain, command.c_str(), &reply, 0) != 0)
            return LibvirtStatus("ask QEMU");
          return ParseQomValue(TakeString(reply));
        });
  }

  absl::StatusOr<SnapshotCount> Snapshots(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    const int all = virDomainSnapshotNum(domain, 0);
    if (all < 0) return LibvirtStatus("count its snapshots");
    const int active = virDomainSnapshotNum(domain, VIR_DOMAIN_SNAPSHOT_LIST_ACTIVE);
    const int checkpoints = virDomainListAllCheckpoints(domain, nullptr, 0);
    virResetLastError();  // a driver without checkpoints has none
    return SnapshotCount{all, std::max(active, 0), std::max(checkpoints, 0)};
  }

  absl::StatusOr<xml::HostMachines> MachineTypes(const std::string& arch,
                                                 const std::string& type) override {
    const std::lock_guard lock(mutex_);
    const auto known = machine_types_.find({arch, type});
    if (known != machine_types_.end()) return known->second;
    const std::string text = TakeString(virConnectGetCapabilities(connection_.get()));
    if (text.empty()) return LibvirtStatus("read the capabilities");
    VR_ASSIGN_OR_RETURN(xml::HostMachines found, xml::MachineTypesOf(text, arch, type));
    return machine_types_[{arch, type}] = std::move(found);
  }

  absl::StatusOr<std::string> VolumePath(const std::string& pool,
                                         const std::string& volume) override {
    const Handle<virStoragePool, virStoragePoolFree> found(
        virStoragePoolLookupByName(connection_.get(), pool.c_str()));
    if (found == nullptr) return LibvirtStatus(absl::StrCat("find the pool ", Quoted(pool)));
    const Handle<virStorageVol, virStorageVolFree> in_pool(
        virStorageVolLookupByName(found.get(), volume.c_str()));
    std::string path = in_pool == nullptr ? "" : TakeString(virStorageVolGetPath(in_pool.get()));
    if (path.empty()) return LibvirtStatus(absl::StrCat("find the volume ", Quoted(volume)));
    return path;
  }

  absl::Status Define(const std::string& xml) override {
    DomainHandle domain(
        virDomainDefineXMLFlags(connection_.get(), xml.c_str(), VIR_DOMAIN_DEFINE_VALIDATE));
    return domain == nullptr ? LibvirtStatus("define") : absl::OkStatus();
  }

  absl::Status AttachDevice(const std::string& uuid, const std::string& xml) override {
    return TellQemu(uuid, "plug the device", [xml](virDomainPtr domain) {
      return virDomainAttachDeviceFlags(domain, xml.c_str(), VIR_DOMAIN_AFFECT_LIVE);
    });
  }

  absl::StatusOr<DomainState> State(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    while (true) {
      int state = 0;
      if (virDomainGetState(domain, &state, nullptr, 0) != 0)
        return LibvirtStatus("read its state");
      if (StateOf(state) != DomainState::kShutOff || !IsRediscovering()) return StateOf(state);
      absl::SleepFor(absl::Milliseconds(20));
    }
  }

  absl::Status Start(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    return virDomainCreate(domain) == 0 ? absl::OkStatus() : LibvirtStatus("start");
  }

  absl::Status Shutdown(const std::string& uuid) override {
    return TellQemu(uuid, "shut down", virDomainShutdown);
  }

  absl::StatusOr<bool> IsPausedByIoError(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    int state = VIR_DOMAIN_NOSTATE;
    int reason = 0;
    if (virDomainGetState(domain, &state, &reason, 0) != 0) return LibvirtStatus("read its state");
    return state == VIR_DOMAIN_PAUSED && reason == VIR_DOMAIN_PAUSED_IOERROR;
  }

  absl::Status Resume(const std::string& uuid) override {
    return TellQemu(uuid, "resume", virDomainResume);
  }

  absl::Status PowerOff(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    if (virDomainDestroy(domain) == 0) return absl::OkStatus();
    const absl::Status status = LibvirtStatus("power off");
    constexpr absl::Duration kBurial = absl::Seconds(5);
    for (const absl::Time limit = absl::Now() + kBurial; absl::Now() < limit;) {
      const auto state = State(uuid);
      if (state.ok() && *state == DomainState::kShutOff) return absl::OkStatus();
      absl::SleepFor(absl::Milliseconds(50));
    }
    return status;
  }

  absl::StatusOr<uint64_t> DiskRequests(const std::string& uuid,
                                        const std::vector<std::string>& targets) override {
    return SumOverDisks(uuid, targets, [](const virDomainBlockStatsStruct& stats) {
      return KnownOrNone(stats.rd_req) + KnownOrNone(stats.wr_req);
    });
  }

  absl::StatusOr<uint64_t> BytesWritten(const std::string& uuid,
                                        const std::vector<std::string>& targets) override {
    return SumOverDisks(uuid, targets, [](const virDomainBlockStatsStruct& stats) {
      return KnownOrNone(stats.wr_bytes);
    });
  }

  absl::Status BeginBackup(const std::string& uuid, const std::string& backup,
                           const std::string& checkpoint) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    return LibvirtBeginBackup(domain, backup, checkpoint);
  }

  std::string DomainDirectory(const std::string& uuid) override {
    const std::string directories = local_ ? DomainDirectories(uri_) : "";
    const auto domain = Find(uuid);
    if (directories.empty() || !domain.ok()) return "";
    const unsigned id = virDomainGetID(*domain);
    const char* name = virDomainGetName(*domain);
    virResetLastError();
    const bool is_off = id == static_cast<unsigned>(-1);
    return is_off || name == nullptr ? "" : FindDomainDirectory(directories, id, name);
  }

  absl::StatusOr<std::string> BackupXml(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    while (true) {
      auto xml = LibvirtBackupXml(domain);
      if (!absl::IsNotFound(xml.status()) || !IsRediscovering()) return xml;
      absl::SleepFor(absl::Milliseconds(20));
    }
  }

  absl::Status EndBackup(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    if (absl::IsNotFound(BackupXml(uuid).status())) return absl::OkStatus();
    return LibvirtEndBackup(domain);
  }

  absl::StatusOr<std::vector<std::string>> Checkpoints(const std::string& uuid) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    while (true) {
      auto names = LibvirtCheckpoints(domain);
      if (!names.ok() || !names->empty() || !IsRediscovering()) return names;
      absl::SleepFor(absl::Milliseconds(20));
    }
  }

  absl::Status DeleteCheckpoint(const std::string& uuid, const std::string& name) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    return LibvirtDeleteCheckpoint(domain, name);
  }

  absl::Status Freeze(const std::string& uuid, bool freeze) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    return LibvirtFreeze(domain, freeze);
  }

  absl::StatusOr<std::unique_ptr<link::Port>> OpenChannel(const std::string& uuid,
                                                          const std::string& name,
                                                          const std::string& socket_path) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    auto port = OpenLibvirtPort(domain, name);
    const bool libvirt_cannot =
        absl::IsUnimplemented(port.status()) || absl::IsPermissionDenied(port.status());
    if (port.ok() || !libvirt_cannot || !sockets_are_local_ || socket_path.empty()) return port;
    return OpenChannelSocket(socket_path);
  }

  absl::StatusOr<std::string> QemuAgentCommand(const std::string& uuid, const std::string& command,
                                               absl::Duration timeout,
                                               const std::stop_token& stop) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    return RunAgentCommand(agent_calls_, domain, command, timeout, stop);
  }

  absl::StatusOr<std::unique_ptr<ErrorWatch>> WatchErrors(
      const std::string& uuid, std::function<void(const std::string&)> on_error) override {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    return WatchLibvirtErrors(connection_.get(), domain, std::move(on_error));
  }

 private:
  absl::StatusOr<std::vector<Blocker>> JobsWithin(absl::Duration limit, const std::string& uuid,
                                                  const xml::Domain& live) {
    return AskQemu<std::vector<Blocker>>(
        uuid, limit, [disks = live.disks](virDomainPtr domain) { return JobsOf(domain, disks); });
  }
  // What only the domain's QEMU can answer, which may hang for good. `question` must own what it
  // uses.
  template <typename T>
  absl::StatusOr<T> AskQemu(const std::string& uuid, absl::Duration limit,
                            std::function<absl::StatusOr<T>(virDomainPtr)> question) {
    VR_ASSIGN_OR_RETURN(virDomainPtr domain, Find(uuid));
    if (virDomainRef(domain) != 0) return LibvirtStatus("keep the domain");
    const auto owner = std::make_shared<DomainHandle>(domain);
    return monitor_calls_.Ask<T>(
        uuid, limit, [owner, question = std::move(question)] { return question(owner->get()); });
  }

  // What only the domain's QEMU can do. DeadlineExceeded: it may still do it.
  absl::Status TellQemu(const std::string& uuid, absl::string_view what,
                        std::function<int(virDomainPtr)> call) {
    return AskQemu<bool>(uuid, kQemuQuestion,
                         [what = std::string(what),
                          call = std::move(call)](virDomainPtr domain) -> absl::StatusOr<bool> {
                           if (call(domain) != 0) return LibvirtStatus(what);
                           return true;
                         })
        .status();
  }

  absl::StatusOr<uint64_t> SumOverDisks(const std::string& uuid,
                                        const std::vector<std::string>& targets,
                                        uint64_t (*value)(const virDomainBlockStatsStruct&)) {
    return AskQemu<uint64_t>(
        uuid, kQemuQuestion, [targets, value](virDomainPtr domain) -> absl::StatusOr<uint64_t> {
          uint64_t sum = 0;
          for (const std::string& target : targets) {
            virDomainBlockStatsStruct stats{};
            if (virDomainBlockStats(domain, target.c_str(), &stats, sizeof stats) != 0)
              return LibvirtStatus("read its disk statistics");
            sum += value(stats);
          }
          return sum;
        });
  }

  absl::StatusOr<virDomainPtr> Find(const std::string& uuid) {
    const std::lock_guard lock(mutex_);
    DomainHandle& domain = domains_[uuid];
    if (domain == nullptr)
      domain.reset(virDomainLookupByUUIDString(connection_.get(), uuid.c_str()));
    if (domain == nullptr) return LibvirtStatus(absl::StrCat("find the domain with UUID ", uuid));
    return domain.get();
  }

  // Only qemu-guest-agent knows whether it froze the guest; it is asked when it is there.
  std::optional<Blocker> AskFrozen(virDomainPtr domain, const xml::Domain& live) {
    for (const xml::Channel& channel : live.channels) {
      if (channel.name != kQemuAgentChannelName || channel.state != "connected") continue;
      return FreezeBlocker(RunAgentCommand(
          agent_calls_, domain, R"({"execute":"guest-fsfreeze-status"})", kFreezeQuestion, {}));
    }
    return std::nullopt;
  }

  // The embedded driver finds its running domains anew at each open, on threads of its own: for
  // some 100 ms it calls every channel disconnected, and a domain that runs shut off. Measured with
  // libvirt 9.0. Whether it knows its jobs and checkpoints by then was not: they are asked for
  // again.
  bool IsRediscovering() const {
    constexpr absl::Duration kRediscovery = absl::Seconds(1);
    return embedded_ && absl::Now() - opened_ < kRediscovery;
  }
  bool ChannelStatesMayBeStale(const std::string& live_xml) const {
    return IsRediscovering() && absl::StrContains(live_xml, "state='disconnected'");
  }

  LibvirtConnection connection_;
  std::string uri_;
  CallWatchdog agent_calls_ = NewAgentWatchdog();
  MonitorCalls monitor_calls_;
  const absl::Time opened_ = absl::Now();
  bool embedded_ = false;
  bool local_ = false;
  bool sockets_are_local_ = false;
  std::mutex mutex_;
  std::map<std::string, DomainHandle> domains_;
  std::map<std::pair<std::string, std::string>, xml::HostMachines> machine_types_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Hypervisor>> ConnectLibvirt(const ConnectOptions& options,
                                                           const std::stop_token& stop) {
  VR_ASSIGN_OR_RETURN(OpenedLibvirt opened, OpenLibvirt(options, stop));
  virConnectSetKeepAlive(opened.connection.get(), kKeepAliveSeconds, kKeepAliveCount);
  virResetLastError();
  return std::make_unique<LibvirtHypervisor>(std::move(opened));
}

}  // namespace virt_reclaim
