// What migrations leave on disk, and what of it is read again: after a power cut, and of a later
// version.
#include "host/services/migration_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/io.h"

namespace virt_reclaim {
namespace {

using testing::HasSubstr;

constexpr char kUri[] = "test:///default";
constexpr char kDomain[] = "11111111-2222-3333-4444-555555555555";

class MigrationStoreTest : public testing::Test {
 protected:
  MigrationStoreTest() : directory_(testing::TempDir() + "migration_store_test") {
    std::filesystem::remove_all(directory_);
  }
  ~MigrationStoreTest() override { std::filesystem::remove_all(directory_); }

  MigrationStore store() const { return {directory_ + "/state", kUri}; }
  StoredMigration Begin() const {
    return store().Begin(kDomain, "<old/>", "<new/>", Record(MigrationStep::kBegun)).value();
  }
  static MigrationRecord Record(MigrationStep step) {
    MigrationRecord record;
    record.step = step;
    record.time = absl::FromUnixSeconds(1'700'000'000);
    return record;
  }
  static std::string JournalOf(const StoredMigration& migration) {
    return migration.directory() + "/journal.jsonl";
  }
  static void Add(const StoredMigration& migration, const std::string& text) {
    std::ofstream(JournalOf(migration), std::ios::app) << text;
  }

  const std::string directory_;
};

TEST_F(MigrationStoreTest, WhatWasWrittenIsRead) {
  StoredMigration migration = Begin();
  MigrationRecord stopping = Record(MigrationStep::kStopping);
  stopping.was_running = stopping.had_agent = true;
  stopping.mounts = {{"/home", "btrfs", "root-uuid", "/images/web.raw", "/@home"}};
  ASSERT_TRUE(migration.Append(stopping).ok());
  const auto found = store().Latest(kDomain).value();
  ASSERT_TRUE(found);
  EXPECT_EQ(found->journal().size(), 2u);
  EXPECT_TRUE(found->place().was_running);
  EXPECT_EQ(found->place().mounts, stopping.mounts);
  EXPECT_EQ(found->OldXml().value(), "<old/>");
  EXPECT_EQ(found->NewXml().value(), "<new/>");
  EXPECT_THAT(store().Domains().value(), testing::ElementsAre(kDomain));
  struct stat status = {};
  ASSERT_EQ(stat(found->old_xml_path().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

// What a power cut leaves of the last line does not count, and the next one is a line of its own.
TEST_F(MigrationStoreTest, ALineThatWasCutOffIsSkipped) {
  StoredMigration migration = Begin();
  ASSERT_TRUE(migration.Append(Record(MigrationStep::kDefining)).ok());
  const std::string whole = ReadFile(JournalOf(migration), 1 << 20).value();
  const size_t last = whole.rfind('{');
  for (size_t cut = last + 1; cut < whole.size() - 1; ++cut) {
    std::filesystem::resize_file(JournalOf(migration), cut);
    auto found = store().Latest(kDomain).value();
    ASSERT_TRUE(found) << cut;
    ASSERT_EQ(found->place().step, MigrationStep::kBegun) << cut;
    ASSERT_TRUE(found->Append(Record(MigrationStep::kDefining)).ok());
    ASSERT_TRUE(found->Append(Record(MigrationStep::kDefined)).ok());
    found = store().Latest(kDomain).value();
    ASSERT_EQ(found->journal().size(), 3u) << cut;
    ASSERT_EQ(found->place().step, MigrationStep::kDefined) << cut;
    std::ofstream(JournalOf(migration), std::ios::trunc) << whole;
  }
}

// Killed or cut off before the first line was whole: nothing had been done, and the one before
// counts.
TEST_F(MigrationStoreTest, OneWithoutALineHasNotBegun) {
  const StoredMigration first = Begin(), second = Begin();
  EXPECT_NE(first.directory(), second.directory());
  std::filesystem::resize_file(JournalOf(second), 10);
  EXPECT_EQ(store().Latest(kDomain).value()->directory(), first.directory());
  std::filesystem::remove(JournalOf(second));
  EXPECT_EQ(store().Latest(kDomain).value()->directory(), first.directory());
  std::filesystem::remove(JournalOf(first));
  EXPECT_FALSE(store().Latest(kDomain).value());
}

TEST_F(MigrationStoreTest, WhatThisVersionDoesNotKnowIsNotGuessed) {
  for (const std::string line :
       {R"({"schema_version": 2, "step": "defined", "time": "2026-01-01T00:00:00+00:00"})",
        R"({"schema_version": 1, "step": "asleep", "time": "2026-01-01T00:00:00+00:00"})",
        R"({"schema_version": 1, "step": "defined", "time": "yesterday"})", "[]", "17"}) {
    const StoredMigration migration = Begin();
    Add(migration, line + "\n");
    const auto found = store().Latest(kDomain);
    EXPECT_TRUE(absl::IsDataLoss(found.status())) << line;
    EXPECT_THAT(std::string(found.status().message()), HasSubstr("line 2: not known")) << line;
  }
}

// Written before kUndoing and others said what libvirt had stored.
TEST_F(MigrationStoreTest, OlderLinesAreRead) {
  const StoredMigration migration = Begin();
  Add(migration,
      R"({"schema_version": 1, "step": "undoing", "time": "2026-01-01T00:00:00+00:00", "detail": "x"})"
      "\n");
  const auto found = store().Latest(kDomain).value();
  EXPECT_EQ(found->place().step, MigrationStep::kUndoing);
  EXPECT_EQ(found->journal().back().after_digest, "");
}

}  // namespace
}  // namespace virt_reclaim
