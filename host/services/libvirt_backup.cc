#include "host/services/libvirt_backup.h"

#include <libvirt/virterror.h>

#include <algorithm>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/escape.h"
#include "base/handle.h"
#include "host/services/libvirt_error.h"

namespace virt_reclaim {
namespace {

constexpr absl::Duration kJobEnds = absl::Seconds(30);
constexpr absl::Duration kStep = absl::Milliseconds(50);

}  // namespace

absl::Status LibvirtBeginBackup(virDomainPtr domain, const std::string& backup,
                                const std::string& checkpoint) {
  const char* mark = checkpoint.empty() ? nullptr : checkpoint.c_str();
  if (virDomainBackupBegin(domain, backup.c_str(), mark, 0) == 0) return absl::OkStatus();
  return LibvirtStatus("begin a backup");
}

absl::StatusOr<std::string> LibvirtBackupXml(virDomainPtr domain) {
  const Handle<char, free> xml(virDomainBackupGetXMLDesc(domain, 0));
  if (xml != nullptr) return std::string(xml.get());
  const virError* error = virGetLastError();
  const bool none = error != nullptr && (error->code == VIR_ERR_NO_DOMAIN_BACKUP ||
                                         error->code == VIR_ERR_OPERATION_INVALID);
  const absl::Status status = LibvirtStatus("ask for its backup");
  return none ? absl::NotFoundError(status.message()) : status;
}

absl::Status LibvirtEndBackup(virDomainPtr domain) {
  // Only who says that there is none has said that it is gone: a connection that broke has not.
  absl::Status job = LibvirtBackupXml(domain).status();
  if (job.ok() && virDomainAbortJob(domain) != 0) {
    const absl::Status status = LibvirtStatus("end its backup");
    if (job = LibvirtBackupXml(domain).status(); job.ok()) return status;
  }
  // The job goes a moment after it was told to: what comes next needs it gone.
  for (const absl::Time limit = absl::Now() + kJobEnds; job.ok() && absl::Now() < limit;) {
    absl::SleepFor(kStep);
    job = LibvirtBackupXml(domain).status();
  }
  if (job.ok()) return absl::DeadlineExceededError("its backup job does not end");
  return absl::IsNotFound(job) ? absl::OkStatus() : job;
}

absl::StatusOr<std::vector<std::string>> LibvirtCheckpoints(virDomainPtr domain) {
  virDomainCheckpointPtr* list = nullptr;
  const int count = virDomainListAllCheckpoints(domain, &list, 0);
  if (count < 0) return LibvirtStatus("list its checkpoints");
  const Handle<virDomainCheckpointPtr, free> owner(list);
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) {
    const Handle<virDomainCheckpoint, virDomainCheckpointFree> one(list[i]);
    names.emplace_back(virDomainCheckpointGetName(one.get()));
  }
  return names;
}

absl::Status LibvirtDeleteCheckpoint(virDomainPtr domain, const std::string& name) {
  const Handle<virDomainCheckpoint, virDomainCheckpointFree> checkpoint(
      virDomainCheckpointLookupByName(domain, name.c_str(), 0));
  if (checkpoint != nullptr && virDomainCheckpointDelete(checkpoint.get(), 0) == 0)
    return absl::OkStatus();
  const absl::Status status =
      LibvirtStatus(absl::StrCat("delete checkpoint '", Printable(name), "'"));
  // Its image was replaced: only libvirt's note of it is left to delete. Nothing but the text tells
  // this error from others (libvirt, qemu_checkpoint.c).
  if (checkpoint != nullptr && absl::StrContains(status.message(), "not found in backing chain") &&
      virDomainCheckpointDelete(checkpoint.get(), VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY) ==
          0) {
    return absl::OkStatus();
  }
  return status;
}

absl::Status LibvirtFreeze(virDomainPtr domain, bool freeze) {
  const int done =
      freeze ? virDomainFSFreeze(domain, nullptr, 0, 0) : virDomainFSThaw(domain, nullptr, 0, 0);
  return done >= 0 ? absl::OkStatus()
                   : LibvirtStatus(freeze ? "freeze its filesystems" : "thaw its filesystems");
}

}  // namespace virt_reclaim
