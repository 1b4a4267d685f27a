#include <gtest/gtest.h>

#include "xml-tools/capabilities.h"
#include "xml-tools/machine_types.h"

namespace virt_reclaim::xml {
namespace {

TEST(MachineTypesTest, SplitsFamilyAndVersion) {
  const MachineType machine = ParseMachineType("pc-i440fx-2.12");
  EXPECT_EQ(machine.kind, MachineKind::kVersioned);
  EXPECT_EQ(machine.family, "pc-i440fx");
  EXPECT_EQ(machine.version, (std::vector<uint32_t>{2, 12}));
  EXPECT_EQ(ParseMachineType("s390-ccw-virtio-4.0").family, "s390-ccw-virtio");
  EXPECT_EQ(ParseMachineType("pc-q35-4.0.1").version, (std::vector<uint32_t>{4, 0, 1}));
}

TEST(MachineTypesTest, ComparesNumbersNotDigits) {
  EXPECT_TRUE(VersionLess({2, 9}, {2, 12}));
  EXPECT_TRUE(VersionLess({9, 2}, {10, 0}));
  EXPECT_TRUE(VersionLess({4, 0}, {4, 0, 1}));
  EXPECT_FALSE(VersionLess({4, 0}, {4, 0, 0}));
  EXPECT_FALSE(VersionLess({4, 0, 0}, {4, 0}));
}

TEST(MachineTypesTest, KnowsWhoseTheyAre) {
  for (const char* name : {"pc", "q35", "virt", "pseries", "s390-ccw-virtio", "microvm"}) {
    EXPECT_EQ(ParseMachineType(name).kind, MachineKind::kAlias) << name;
  }
  for (const char* name :
       {"pc-i440fx-rhel7.6.0", "pc-q35-rhel9.2.0", "virt-rhel8.6.0", "pseries-rhel7.6.0-sxxm",
        "pc-q35-jammy", "pc-i440fx-focal-hpb", "s390-ccw-virtio-noble"}) {
    EXPECT_EQ(ParseMachineType(name).kind, MachineKind::kDownstream) << name;
  }
  for (const char* name : {"pc-0.12", "isapc", "none", "vexpress-a9", "pc-i440fx-", "pc-i440fx-4",
                           "pc-i440fx-4.", "pc-i440fx-4.x", "pc-i440fx-4.0 ", "pc-i440fx--4.0",
                           "pc-i440fx-+4.0", "pc-i440fx-99999999999.0", "pseries-2.12-sxxm"}) {
    EXPECT_EQ(ParseMachineType(name).kind, MachineKind::kUnknown) << name;
    EXPECT_FALSE(RaisedForVirtioBlk(ParseMachineType(name)).has_value()) << name;
  }
  EXPECT_EQ(ParseMachineType("").kind, MachineKind::kNotSaid);
}

TEST(MachineTypesTest, RaisesWithinTheFamilyAndOnlyAsFarAsNeeded) {
  EXPECT_EQ(RaisedForVirtioBlk(ParseMachineType("pc-i440fx-2.12")), "pc-i440fx-4.0");
  EXPECT_EQ(RaisedForVirtioBlk(ParseMachineType("pc-q35-3.1")), "pc-q35-4.0");
  EXPECT_EQ(RaisedForVirtioBlk(ParseMachineType("virt-2.9")), "virt-4.0");
  for (const char* name : {"pc-i440fx-4.0", "pc-q35-4.0.1", "pc-q35-10.1", "pc"}) {
    EXPECT_FALSE(RaisedForVirtioBlk(ParseMachineType(name)).has_value()) << name;
  }
}

TEST(MachineTypesTest, DistributionsHaveTablesOfTheirOwn) {
  const MachineType variant = ParseMachineType("pc-i440fx-bionic-hpb");
  EXPECT_EQ(variant.vendor, "ubuntu");
  EXPECT_EQ(variant.suffix, "-hpb");
  EXPECT_EQ(variant.version, (std::vector<uint32_t>{18, 4}));
  EXPECT_EQ(RaisedForVirtioBlk(variant), "pc-i440fx-eoan-hpb");
  EXPECT_EQ(RaisedForVirtioBlk(ParseMachineType("pseries-xenial")), "pseries-eoan");
  EXPECT_EQ(RaisedForVirtioBlk(ParseMachineType("pc-q35-rhel7.6.0")), "pc-q35-rhel8.1.0");
  for (const char* name : {"pc-i440fx-rhel7.6.0", "pc-q35-rhel8.1.0", "pc-q35-jammy", "pc-q35-wily",
                           "virt-rhel7.6.0", "pc-q35-rhel7.6.0-x", "pseries-bionic-sxxm"}) {
    EXPECT_FALSE(RaisedForVirtioBlk(ParseMachineType(name)).has_value()) << name;
  }
}

TEST(MachineTypesTest, RaisesToWhatTheHostHas) {
  const std::vector<std::string> known = {"pc-i440fx-7.2", "pc-q35-8.1",       "pc-q35-5.2",
                                          "q35",           "pc-q35-rhel8.2.0", "pc-q35-jammy"};
  EXPECT_EQ(RaisedForVirtioBlk(ParseMachineType("pc-q35-2.12"), known), "pc-q35-5.2");
  EXPECT_EQ(RaisedForVirtioBlk(ParseMachineType("pc-q35-rhel8.0.0"), known), "pc-q35-rhel8.2.0");
  EXPECT_EQ(RaisedForVirtioBlk(ParseMachineType("pc-q35-bionic"), known), "pc-q35-jammy");
  EXPECT_FALSE(RaisedForVirtioBlk(ParseMachineType("pc-q35-bionic-hpb"), known).has_value());
  EXPECT_FALSE(RaisedForVirtioBlk(ParseMachineType("virt-2.9"), known).has_value());
}

TEST(MachineTypesTest, NewestIsTheAliasOrTheNewestOfTheList) {
  EXPECT_EQ(NewestOfFamily(ParseMachineType("pc-q35-3.1")), "q35");
  EXPECT_EQ(NewestOfFamily(ParseMachineType("pc-i440fx-9.9")), "pc");
  EXPECT_EQ(NewestOfFamily(ParseMachineType("q35")), "q35");
  EXPECT_EQ(NewestOfFamily(ParseMachineType("")), "");
  EXPECT_FALSE(NewestOfFamily(ParseMachineType("pc-q35-jammy")).has_value());
  EXPECT_FALSE(NewestOfFamily(ParseMachineType("isapc"), {"isapc"}).has_value());
  const std::vector<std::string> known = {"pc-q35-9.2", "pc-q35-10.0", "pc-q35-noble", "q35"};
  EXPECT_EQ(NewestOfFamily(ParseMachineType("pc-q35-3.1"), known), "pc-q35-10.0");
  EXPECT_EQ(NewestOfFamily(ParseMachineType("pc-q35-10.1"), known), "pc-q35-10.1");
  EXPECT_EQ(NewestOfFamily(ParseMachineType("pc-q35-jammy"), known), "pc-q35-noble");
}

TEST(CapabilitiesTest, TheHostsMachineTypesAndWhichOfThemGo) {
  constexpr char kText[] = R"(<capabilities>
  <guest><os_type>hvm</os_type><arch name='x86_64'>
    <machine maxCpus='255' deprecated='yes'>pc-i440fx-2.0</machine>
    <machine canonical='pc-i440fx-rhel7.6.0' maxCpus='240' deprecated='yes'>pc</machine>
    <machine maxCpus='288' deprecated='no'>pc-q35-7.2</machine>
    <machine canonical='pc-q35-7.2' maxCpus='288'>q35</machine>
    <domain type='qemu'/>
    <domain type='kvm'><machine deprecated='yes'>only-kvm</machine></domain>
  </arch></guest>
  <guest><arch name='aarch64'><machine>virt-7.2</machine><domain type='qemu'/></arch></guest>
</capabilities>)";
  const HostMachines qemu = MachineTypesOf(kText, "x86_64", "qemu").value();
  EXPECT_EQ(qemu.names, (std::vector<std::string>{"pc-i440fx-2.0", "pc", "pc-i440fx-rhel7.6.0",
                                                  "pc-q35-7.2", "q35"}));
  EXPECT_EQ(qemu.deprecated,
            (std::vector<std::string>{"pc-i440fx-2.0", "pc", "pc-i440fx-rhel7.6.0"}));
  EXPECT_EQ(MachineTypesOf(kText, "x86_64", "kvm").value().names,
            (std::vector<std::string>{"only-kvm"}));
  EXPECT_TRUE(MachineTypesOf(kText, "aarch64", "kvm").value().names.empty());
  EXPECT_FALSE(MachineTypesOf("<domain/>", "x86_64", "qemu").ok());
}

}  // namespace
}  // namespace virt_reclaim::xml
