// The part of the fake hypervisor that knows backup jobs and checkpoints.
#ifndef VIRT_RECLAIM_TESTS_FAKES_FAKE_BACKUPS_H_
#define VIRT_RECLAIM_TESTS_FAKES_FAKE_BACKUPS_H_

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/services/hypervisor.h"
#include "tests/fakes/fake_world.h"

namespace virt_reclaim {

class FakeBackups : public Hypervisor {
 public:
  explicit FakeBackups(FakeWorld& world) : world_(world) {}

  absl::Status BeginBackup(const std::string& uuid, const std::string& backup,
                           const std::string& checkpoint) override {
    FakeDomain& domain = world_.domains.at(uuid);
    VR_RETURN_IF_ERROR(domain.begin_backup);
    if (!domain.backup_xml.empty()) return absl::AbortedError("a job is under way");
    if (domain.checkpoints_lost && absl::StrContains(backup, "incremental="))
      return absl::DataLossError("missing or broken bitmap");
    world_.calls.push_back(absl::StrCat("begin backup ", domain.summary.name));
    domain.backup_xml = backup;
    const size_t socket = backup.find("socket='") + 8;
    domain.backup_socket = backup.substr(socket, backup.find('\'', socket) - socket);
    if (domain.while_beginning_backup) domain.while_beginning_backup(backup);
    const size_t name = checkpoint.find("<name>");
    if (name != std::string::npos) {
      const size_t begin = name + 6;
      domain.checkpoints.push_back(checkpoint.substr(begin, checkpoint.find("</name>") - begin));
    }
    return absl::OkStatus();
  }

  std::string DomainDirectory(const std::string& uuid) override {
    return world_.domains.at(uuid).directory;
  }

  absl::StatusOr<std::string> BackupXml(const std::string& uuid) override {
    const FakeDomain& domain = world_.domains.at(uuid);
    VR_RETURN_IF_ERROR(domain.backup_xml_error);
    if (domain.backup_xml.empty()) return absl::NotFoundError("no backup");
    return domain.backup_xml;
  }

  absl::Status EndBackup(const std::string& uuid) override {
    FakeDomain& domain = world_.domains.at(uuid);
    if (domain.backup_xml.empty()) return absl::OkStatus();
    world_.calls.push_back(absl::StrCat("end backup ", domain.summary.name));
    VR_RETURN_IF_ERROR(domain.end_backup);
    domain.backup_xml.clear();
    return absl::OkStatus();
  }

  absl::StatusOr<std::vector<std::string>> Checkpoints(const std::string& uuid) override {
    return world_.domains.at(uuid).checkpoints;
  }

  absl::Status DeleteCheckpoint(const std::string& uuid, const std::string& name) override {
    std::erase(world_.domains.at(uuid).checkpoints, name);
    return absl::OkStatus();
  }

  absl::Status Freeze(const std::string& uuid, bool freeze) override {
    world_.calls.push_back(
        absl::StrCat(freeze ? "freeze " : "thaw ", world_.domains.at(uuid).summary.name));
    return freeze ? world_.domains.at(uuid).freeze : world_.domains.at(uuid).thaw;
  }

 protected:
  FakeWorld& world_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_FAKES_FAKE_BACKUPS_H_
