// Whose image a file is: its disk, what that stands on, its data file, a volume; and what is not
// known.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "tests/unit/sparsify_fixture.h"

namespace virt_reclaim {
namespace {

using sparsify::Mode;
using testing::ElementsAre;

// A guest with a managed save has nothing open: only its definition tells whose image it is.
TEST_F(SparsifyImagesTest, OfADomainWhoseDefinitionCannotBeReadAnyImageMayBe) {
  FakeDomain& domain = AddDomain(DomainState::kShutOff);
  domain.managed_save = true;
  SparsifyImagesOptions options;
  options.targets = {AddFile()};
  const Services services = world_.services();
  ASSERT_TRUE(PlanSparsify(services, options, {}).ok());
  for (const absl::Status& error :
       {absl::UnavailableError("read its XML: gone"), absl::PermissionDeniedError("hidden")}) {
    domain.xml_error = error;
    const auto planned = PlanSparsify(services, options, {});
    EXPECT_TRUE(absl::IsFailedPrecondition(planned.status())) << planned.status();
  }
  domain.xml_error = absl::OkStatus();
  domain.inactive_xml = "<domain";
  EXPECT_TRUE(absl::IsFailedPrecondition(PlanSparsify(services, options, {}).status()));
  // One that went away after the list was made is nobody's user.
  domain.xml_error = absl::NotFoundError("no such domain");
  EXPECT_TRUE(PlanSparsify(services, options, {}).ok());
}

// Of an overlay whose chain cannot be followed any image may be the base; but not the overlay
// itself.
TEST_F(SparsifyImagesTest, WhatAnOverlayStandsOnThatCannotBeRead) {
  const std::string base = AddFile();
  const std::string middle = AddFile();
  const std::string leaf = AddFile();
  AddOverQcow2("clone", kUuid2, leaf);
  const auto refused = [&](const std::string& path) -> std::string {
    SparsifyImagesOptions options;
    options.targets = {path};
    const Outcome outcome = Run(options, Mode::kMeasure)[0].outcome;
    if (outcome.kind == OutcomeKind::kDone) return "";
    if (outcome.reasons.size() != 1) return std::string(outcome.error.message());
    return absl::StrCat(Code(outcome.reasons[0].reason), ": ", outcome.reasons[0].detail);
  };
  const std::string not_known =
      "image-refused: it may be what 'vda' of 'clone' stands on, which is not known: ";
  ImageHeader overlay;
  overlay.format = "qcow2";
  overlay.backing = true;
  ImageHeader alone;
  alone.format = "qcow2";

  world_.headers.insert_or_assign(leaf, alone);
  EXPECT_EQ(refused(base), "");
  world_.headers.insert_or_assign(leaf, absl::PermissionDeniedError("hidden"));
  EXPECT_EQ(refused(base), not_known + "hidden");
  EXPECT_EQ(refused(leaf), "hidden");
  world_.headers.insert_or_assign(leaf, absl::NotFoundError("gone"));
  EXPECT_EQ(refused(base), "");
  // A name that is no file's.
  world_.headers.insert_or_assign(leaf, overlay);
  EXPECT_EQ(refused(base), not_known + "'" + leaf + "' names no file that it stands on");
  overlay.backing_elsewhere = true;
  world_.headers.insert_or_assign(leaf, overlay);
  EXPECT_EQ(refused(base), "");
  // In the middle of a chain.
  overlay.backing_elsewhere = false;
  overlay.backing_path = middle;
  overlay.backing_format = "qcow2";
  world_.headers.insert_or_assign(leaf, overlay);
  world_.headers.insert_or_assign(middle, absl::NotFoundError("gone"));
  EXPECT_EQ(refused(base), not_known + "gone");
  overlay.backing_path = base;
  overlay.backing_format = "raw";
  world_.headers.insert_or_assign(middle, overlay);
  EXPECT_EQ(refused(base), "image-backs-others: clone");
  EXPECT_EQ(refused(middle), "image-backs-others: clone");
  EXPECT_EQ(refused(AddFile()), "");
}

// One domain whose "disk" is a pipe does not stop every other.
TEST_F(SparsifyImagesTest, WhatIsNoImageStandsOnNothing) {
  const std::string pipe = AddFile();
  ASSERT_EQ(unlink(pipe.c_str()), 0);
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  AddOverQcow2("fifo", kUuid2, pipe);
  world_.headers.insert_or_assign(pipe, absl::UnknownError("Illegal seek"));
  SparsifyImagesOptions options;
  options.targets = {AddFile()};
  EXPECT_EQ(Run(options, Mode::kMeasure)[0].outcome.kind, OutcomeKind::kDone);
}

// A name that leads nowhere is a mistake, whatever else is not known.
TEST_F(SparsifyImagesTest, WhatIsNotThereIsNoBaseOfAnother) {
  const std::string leaf = AddFile();
  AddOverQcow2("clone", kUuid2, leaf);
  world_.headers.insert_or_assign(leaf, absl::PermissionDeniedError("hidden"));
  SparsifyImagesOptions options;
  options.targets = {"/missing/a.raw"};
  const Outcome outcome = Run(options, Mode::kMeasure)[0].outcome;
  EXPECT_EQ(outcome.kind, OutcomeKind::kFailed);
  EXPECT_THAT(outcome.reasons, testing::IsEmpty());
}

// The bytes of a data file are where its qcow2 image says.
TEST_F(SparsifyImagesTest, TheDataFileOfAnImage) {
  const std::string image = AddFile();
  const std::string data = AddFile();
  AddOverQcow2("web", kUuid, image);
  ImageHeader header;
  header.format = "qcow2";
  header.external_data = true;
  header.data_path = data;
  world_.headers.insert_or_assign(image, header);
  SparsifyImagesOptions options;
  options.targets = {data};
  EXPECT_THAT(Reasons(Run(options)[0].outcome), ElementsAre(Reason::kImageBacksOthers));
  header.data_path = "";
  world_.headers.insert_or_assign(image, header);
  EXPECT_THAT(Reasons(Run(options)[0].outcome), ElementsAre(Reason::kImageRefused));
}

// A definition may name a volume of a pool: whose file that is, libvirt knows.
TEST_F(SparsifyImagesTest, AVolumeOfASavedDomain) {
  const std::string path = AddFile();
  FakeDomain& domain = world_.AddDomain(
      absl::StrReplaceAll(DomainXml("web", kUuid, "pc-q35-7.2", {{"vda", "virtio", "x", ""}}, ""),
                          {{"<disk type='file'", "<disk type='volume'"},
                           {"<source file='x'", "<source pool='default' volume='web.raw'"}}),
      DomainState::kShutOff);
  SparsifyImagesOptions options;
  options.targets = {path};
  EXPECT_EQ(Run(options)[0].outcome.kind, OutcomeKind::kDone);  // no such volume
  domain.managed_save = true;
  EXPECT_THAT(Reasons(Run(options)[0].outcome), ElementsAre(Reason::kImageRefused));
  world_.volumes["default/web.raw"] = path;
  EXPECT_THAT(Reasons(Run(options)[0].outcome), ElementsAre(Reason::kManagedSave));
  options.targets = {AddFile()};
  EXPECT_EQ(Run(options)[0].outcome.kind, OutcomeKind::kDone);
}

}  // namespace
}  // namespace virt_reclaim
