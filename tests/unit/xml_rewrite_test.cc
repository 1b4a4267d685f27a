#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "xml-tools/rewrite.h"

namespace virt_reclaim::xml {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

std::string DiskXml(absl::string_view target, absl::string_view bus,
                    absl::string_view inside = "") {
  return absl::StrCat("<disk type='file'><driver name='qemu'/><source file='/x'/><target dev='",
                      target, "' bus='", bus, "'/>", inside, "</disk>");
}

std::string DomainXml(absl::string_view machine, absl::string_view devices) {
  return absl::StrCat("<domain type='kvm'><name>d</name><os><type machine='", machine,
                      "'>hvm</type></os><devices>", devices, "</devices></domain>");
}

TEST(RewriteTest, OnlyTheChosenDisk) {
  const std::string text =
      DomainXml("pc-q35-3.1", DiskXml("vda", "virtio") + DiskXml("sda", "sata"));
  const auto result = Rewrite(text, {.targets = {"sda"}});
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_THAT(result->changes, SizeIs(1));  // no machine type: sata does not need it
  EXPECT_EQ(result->changes[0].target, "sda");
}

TEST(RewriteTest, UnknownTargetIsAnError) {
  const auto result = Rewrite(DomainXml("q35", DiskXml("vda", "virtio")), {.targets = {"vdb"}});
  EXPECT_TRUE(absl::IsNotFound(result.status())) << result.status();
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("no disk 'vdb'"));
}

TEST(RewriteTest, KeepsTheMachineTypeWhenToldAndRefusesTheDiskThatNeedsIt) {
  const std::string text =
      DomainXml("pc-q35-3.1", DiskXml("vda", "virtio") + DiskXml("sda", "sata"));
  const auto result = Rewrite(text, {.machine = MachinePolicy::kKeep, .targets = {}});
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_THAT(result->refusals, SizeIs(1));
  EXPECT_EQ(result->refusals[0].target, "vda");
  EXPECT_EQ(result->refusals[0].reason, "machine-too-old");
  ASSERT_THAT(result->changes, SizeIs(1));
  EXPECT_EQ(result->changes[0].target, "sda");
}

TEST(RewriteTest, RefusedDisksDoNotRaiseTheMachineType) {
  const auto result = Rewrite(DomainXml("pc-q35-3.1", DiskXml("vda", "virtio", "<readonly/>")), {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->changes, IsEmpty());
  EXPECT_THAT(result->refusals, SizeIs(1));
}

TEST(RewriteTest, TwoDriversOfADiskThatIsLeftAloneDoNoHarm) {
  const auto result = Rewrite(
      DomainXml("q35", DiskXml("sda", "usb", "<driver name='qemu'/>") + DiskXml("vda", "virtio")),
      {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->changes, SizeIs(1));
}

TEST(RewriteTest, AmbiguousXmlIsNotEdited) {
  EXPECT_TRUE(absl::IsUnimplemented(
      Rewrite(DomainXml("q35", DiskXml("vda", "virtio", "<target dev='sda' bus='usb'/>")), {})
          .status()));
  const std::string two_types =
      "<domain type='kvm'><os><type machine='pc-q35-3.1'/><type machine='q35'/></os><devices>" +
      DiskXml("vda", "virtio") + "</devices></domain>";
  EXPECT_TRUE(absl::IsUnimplemented(Rewrite(two_types, {}).status()));
}

TEST(RewriteTest, TypeOfTheDomainMustBeQemus) {
  for (const char* type : {"xen", "lxc", "bhyve", "test", ""}) {
    const auto result = Rewrite(absl::StrCat("<domain type='", type, "'/>"), {});
    EXPECT_TRUE(absl::IsFailedPrecondition(result.status())) << result.status();
  }
}

TEST(RewriteTest, PrefixedDriverInADiskIsNotOurs) {
  const auto result = Rewrite(
      "<domain type='kvm' xmlns:x='urn:x'><devices><disk type='file'><x:driver discard='ignore'/>"
      "<source file='/x'/><target dev='vda' bus='virtio'/></disk></devices></domain>",
      {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(
      result->text,
      HasSubstr(
          "<disk type='file'><driver name='qemu' discard='unmap'/><x:driver discard='ignore'/>"));
}

TEST(RewriteTest, EditsAsManyDisksAsThereAre) {
  std::string disks;
  for (int i = 0; i < 5000; ++i) absl::StrAppend(&disks, DiskXml(absl::StrCat("vd", i), "virtio"));
  const auto result = Rewrite(DomainXml("pc-q35-3.1", disks), {});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->changes, SizeIs(5001));
}

TEST(RewriteTest, AnEditThatWouldBreakTheSizeLimitIsNotMade) {
  std::string text = DomainXml("q35", DiskXml("vda", "virtio"));
  text += std::string(kMaxXmlBytes - text.size(), '\n');
  EXPECT_TRUE(absl::IsInternal(Rewrite(text, {}).status()));
}

}  // namespace
}  // namespace virt_reclaim::xml
