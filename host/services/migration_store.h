// What migrations leave on disk: for each domain and migration a directory with the XML of before
// and after, and a journal, one JSON object a line, synced before it counts. The directory is
// STATE/migrate/HYPERVISOR/UUID/NUMBER, readable by its owner only: XML may hold passwords.
#ifndef VIRT_RECLAIM_HOST_SERVICES_MIGRATION_STORE_H_
#define VIRT_RECLAIM_HOST_SERVICES_MIGRATION_STORE_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "host/model/migration.h"

namespace virt_reclaim {

// One migration. Not thread-safe; the domain's lock is held while one is written to.
class StoredMigration {
 public:
  const std::string& directory() const { return directory_; }
  std::string old_xml_path() const { return directory_ + "/old.xml"; }
  const std::vector<MigrationRecord>& journal() const { return journal_; }
  MigrationPlace place() const { return PlaceOf(journal_); }

  // With secrets: for libvirt only.
  absl::StatusOr<std::string> OldXml() const;
  absl::StatusOr<std::string> NewXml() const;

  // On disk when it returns OK. The record's time is the caller's.
  absl::Status Append(MigrationRecord record);

 private:
  friend class MigrationStore;
  std::string directory_;
  std::vector<MigrationRecord> journal_;
};

class MigrationStore {
 public:
  // `uri` is the hypervisor's.
  MigrationStore(const std::string& state_directory, const std::string& uri);

  // A new migration that has saved both XML texts and written `begun`.
  absl::StatusOr<StoredMigration> Begin(const std::string& uuid, const std::string& old_xml,
                                        const std::string& new_xml, MigrationRecord begun) const;

  // The latest migration of the domain that came further than to prepare its guest in vain; nullopt
  // when there is none. What a power cut has left of a line does not count; DataLoss for a line
  // that is whole and not known to this version.
  absl::StatusOr<std::optional<StoredMigration>> Latest(const std::string& uuid) const;

  // UUIDs of all domains that have one.
  absl::StatusOr<std::vector<std::string>> Domains() const;

 private:
  std::string directory_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_SERVICES_MIGRATION_STORE_H_
