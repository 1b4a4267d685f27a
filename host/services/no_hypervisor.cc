// A machine without libvirt: it has no domains.
#include <utility>

#include "host/services/hypervisor.h"

namespace virt_reclaim {
namespace {

absl::Status None() { return absl::UnimplementedError("there is no hypervisor"); }

class NoDomains final : public Hypervisor {
 public:
  std::string Uri() const override { return "no hypervisor"; }
  bool ImagesAreLocal() const override { return true; }
  absl::StatusOr<std::vector<DomainSummary>> ListDomains() override {
    return std::vector<DomainSummary>{};
  }
  absl::StatusOr<std::string> DomainXml(const std::string&, Xml) override { return None(); }
  absl::StatusOr<Usage> BlockUsage(const std::string&, const std::string&) override {
    return None();
  }
  absl::StatusOr<std::vector<Blocker>> Jobs(const std::string&, const xml::Domain&) override {
    return None();
  }
  absl::StatusOr<std::vector<Blocker>> Activity(const std::string&, const xml::Domain&) override {
    return None();
  }
  absl::StatusOr<bool> HasManagedSave(const std::string&) override { return None(); }
  absl::StatusOr<SnapshotCount> Snapshots(const std::string&) override { return None(); }
  absl::StatusOr<xml::HostMachines> MachineTypes(const std::string&, const std::string&) override {
    return None();
  }
  absl::StatusOr<std::string> VolumePath(const std::string&, const std::string&) override {
    return None();
  }
  absl::StatusOr<uint64_t> DeviceProperty(const std::string&, const std::string&,
                                          const std::string&) override {
    return None();
  }
  absl::StatusOr<uint64_t> BytesWritten(const std::string&,
                                        const std::vector<std::string>&) override {
    return None();
  }
  absl::StatusOr<std::string> QemuAgentCommand(const std::string&, const std::string&,
                                               absl::Duration, const std::stop_token&) override {
    return None();
  }
  absl::StatusOr<std::unique_ptr<ErrorWatch>> WatchErrors(
      const std::string&, std::function<void(const std::string&)>) override {
    return None();
  }
  absl::Status Define(const std::string&) override { return None(); }
  absl::StatusOr<DomainState> State(const std::string&) override { return None(); }
  absl::Status Start(const std::string&) override { return None(); }
  absl::Status Shutdown(const std::string&) override { return None(); }
  absl::Status PowerOff(const std::string&) override { return None(); }
  absl::StatusOr<uint64_t> DiskRequests(const std::string&,
                                        const std::vector<std::string>&) override {
    return None();
  }
  absl::StatusOr<std::unique_ptr<link::Port>> OpenChannel(const std::string&, const std::string&,
                                                          const std::string&) override {
    return None();
  }
};

}  // namespace

std::unique_ptr<Hypervisor> NewNoHypervisor() { return std::make_unique<NoDomains>(); }

}  // namespace virt_reclaim
