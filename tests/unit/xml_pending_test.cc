// Pairs of a saved definition and the running domain's XML, in the shapes that libvirt 9.0 gives
// them.
#include <gtest/gtest.h>

#include "absl/strings/str_replace.h"
#include "xml-tools/pending.h"

namespace virt_reclaim::xml {
namespace {

constexpr char kSaved[] =
    R"(<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>web</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <title>the web</title>
  <maxMemory slots='4' unit='KiB'>4194304</maxMemory>
  <memory unit='KiB'>2000000</memory>
  <currentMemory unit='KiB'>2000000</currentMemory>
  <memoryBacking><hugepages/></memoryBacking>
  <vcpu placement='static' current='2'>4</vcpu>
  <iothreads>1</iothreads>
  <os firmware='efi'>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <loader secure='no'/>
    <boot dev='hd'/>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='partial'>
    <model fallback='allow'>Nehalem</model>
    <topology sockets='1' dies='1' cores='4' threads='1'/>
    <feature policy='disable' name='vmx'/>
    <feature policy='optional' name='invtsc'/>
    <numa><cell id='0' cpus='0-3' memory='2000000' unit='KiB'/></numa>
  </cpu>
  <clock offset='utc'>
    <timer name='rtc' tickpolicy='catchup'/>
    <timer name='hpet' present='no'/>
  </clock>
  <on_reboot>restart</on_reboot>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2' cache='none' io='native'/>
      <source file='/images/web.qcow2'/>
      <target dev='vda' bus='virtio'/>
      <serial>ROOT</serial>
      <boot order='1'/>
      <address type='pci' domain='0x0000' bus='0x03' slot='0x00' function='0x0'/>
    </disk>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/>
      <target dev='sda' bus='sata'/>
      <readonly/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
    <controller type='usb' index='0' model='qemu-xhci' ports='15'/>
    <interface type='network'>
      <mac address='52:54:00:00:00:01'/>
      <source network='default'/>
      <model type='virtio'/>
    </interface>
    <interface type='bridge'>
      <mac address='52:54:00:00:00:02'/>
      <source bridge='br0'/>
      <model type='e1000e'/>
      <link state='up'/>
    </interface>
    <serial type='pty'><target type='isa-serial' port='0'/></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <channel type='unix'>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
      <address type='virtio-serial' controller='0' bus='0' port='1'/>
    </channel>
    <input type='tablet' bus='usb'/>
    <graphics type='vnc' port='-1' autoport='yes'><listen type='address'/></graphics>
    <video><model type='virtio' heads='1' primary='yes'/></video>
    <hostdev mode='subsystem' type='pci' managed='yes'>
      <source><address domain='0x0000' bus='0x06' slot='0x02' function='0x0'/></source>
    </hostdev>
    <hostdev mode='subsystem' type='usb' managed='no'>
      <source><vendor id='0x1234'/><product id='0xbeef'/></source>
    </hostdev>
    <memballoon model='virtio'><stats period='10'/></memballoon>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <memory model='dimm'><target><size unit='KiB'>524288</size><node>0</node></target></memory>
  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'/>
  <qemu:commandline><qemu:arg value='-no-hpet'/></qemu:commandline>
</domain>
)";

// The same, started: each value that libvirt filled in, or that changed while it ran.
std::string Live() {
  return absl::StrReplaceAll(
      kSaved,
      {{"<domain type='kvm'", "<domain type='kvm' id='7'"},
       {"<title>the web</title>", "<title>another</title>"},
       {"<memory unit='KiB'>2000000", "<memory unit='KiB'>2000896"},
       {"<currentMemory unit='KiB'>2000000", "<currentMemory unit='KiB'>1048576"},
       {"memory='2000000'", "memory='2000896'"},
       {"<iothreads>1</iothreads>",
        "<iothreads>1</iothreads><cputune><shares>1024</shares></cputune>"
        "<resource><partition>/machine</partition></resource>"},
       {"<os firmware='efi'>", "<os>"},
       {"<loader secure='no'/>",
        "<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>"
        "<nvram template='/usr/share/OVMF/OVMF_VARS.fd'>/var/lib/web_VARS.fd</nvram>"},
       {"check='partial'", "check='full'"},
       {"<model fallback='allow'>", "<vendor>Intel</vendor><model fallback='forbid'>"},
       {"<feature policy='optional' name='invtsc'/>",
        "<feature policy='require' name='vme'/><feature policy='require' name='hypervisor'/>"},
       {"<clock offset='utc'>", "<clock offset='variable' adjustment='3' basis='utc'>"},
       {"<source file='/images/web.qcow2'/>",
        "<source file='/images/web.qcow2' index='1'/>"
        "<backingStore type='file' index='3'><format type='raw'/><source file='/images/base'/>"
        "<backingStore/></backingStore>"},
       {"<target dev='sda' bus='sata'/>",
        "<source file='/iso/cd.iso' index='2'/><target dev='sda' bus='sata'/>"},
       {"<source network='default'/>",
        "<source network='default' portid='a5' bridge='virbr0'/><target dev='vnet3'/>"},
       {"<source bridge='br0'/>", "<source bridge='br0'/><target dev='vnet4'/>"},
       {"<link state='up'/>", "<link state='down'/>"},
       {"<serial type='pty'>", "<serial type='pty'><source path='/dev/pts/3'/>"},
       {"<console type='pty'>", "<console type='pty' tty='/dev/pts/3'><source path='/dev/pts/3'/>"},
       {"<channel type='unix'>", "<channel type='unix'><source mode='bind' path='/run/a'/>"},
       {"port='-1' autoport='yes'><listen type='address'/>",
        "port='5900' autoport='yes' listen='127.0.0.1'><listen type='address' "
        "address='127.0.0.1'/>"},
       {"managed='yes'>", "managed='yes'><driver name='vfio'/><alias name='hostdev0'/>"},
       {"<product id='0xbeef'/>", "<product id='0xbeef'/><address bus='1' device='4'/>"},
       {"<stats period='10'/>", "<stats period='5'/><alias name='balloon0'/>"},
       {"<rng model='virtio'>", "<rng model='virtio'><alias name='rng0'/>"},
       {"<input type='tablet' bus='usb'/>",
        "<input type='tablet' bus='usb'><alias name='input0'/></input>"
        "<input type='mouse' bus='ps2'><alias name='input1'/></input>"},
       {"model='dac' relabel='yes'/>",
        "model='dac' relabel='yes'><label>+64055:+64055</label></seclabel>"}});
}

std::string Replaced(const std::string& text, const char* before, const char* after) {
  EXPECT_NE(text.find(before), std::string::npos) << before;
  return absl::StrReplaceAll(text, {{before, after}});
}

TEST(PendingTest, WhatLibvirtFillsInAtTheStartIsNotPending) {
  EXPECT_EQ(FirstPending(kSaved, kSaved).value(), "");
  EXPECT_EQ(FirstPending(kSaved, Live()).value(), "");
}

TEST(PendingTest, OtherShapesOfTheSame) {
  struct Pair {
    const char *before, *saved, *live;  // in kSaved; what it is in either
  };
  const std::vector<Pair> pairs = {
      // A host's CPU is written out.
      {"<cpu mode='custom' match='exact' check='partial'>", "<cpu mode='host-model'>",
       "<cpu mode='custom' match='exact' check='full'>"},
      {">Nehalem<", ">Nehalem<", ">Nehalem-IBRS<"},  // only with the next
      {"<interface type='network'>", "<interface type='network'>", "<interface type='bridge'>"},
      {"<source network='default'/>", "<source network='default' portgroup='a'/>",
       "<source network='default' bridge='br1'/>"},
      {"<features><acpi/>", "<features><gic version='host'/><acpi/>",
       "<features><gic version='3'/><acpi/>"},
      {"vcpu placement='static' current='2'", "vcpu placement='static' current='4'", "vcpu"},
      {"<boot order='1'/>", "<boot order='1'/>", "<boot order='1'/><mirror type='file'/>"},
      {"<address type='drive' controller='0'", "<address type='drive' controller='0'",
       "<address type='drive' controller='1'"},
      {"cache='none' io='native'/>", "cache='none' io='native'/>",
       "cache='none' io='native' discard='unmap'/>"},
  };
  std::string saved = kSaved, live = Live();
  for (const Pair& pair : pairs) {
    saved = absl::StrReplaceAll(saved, {{pair.before, pair.saved}});
    live = absl::StrReplaceAll(live, {{pair.before, pair.live}});
  }
  EXPECT_EQ(FirstPending(saved, live).value(), "");
  live = absl::StrReplaceAll(
      Live(), {{"<interface type='network'>", "<interface type='hostdev' managed='yes'>"},
               {"<source network='default' portid='a5' bridge='virbr0'/>",
                "<source><address type='pci' bus='0x03'/></source>"}});
  EXPECT_EQ(FirstPending(kSaved, live).value(), "");
}

TEST(PendingTest, WhatAPowerCycleWouldBringIsNamed) {
  struct Change {
    const char *before, *after, *where;
  };
  // Of the saved definition, after the start.
  const std::vector<Change> changes = {
      {"<memory unit='KiB'>2000000", "<memory unit='KiB'>1000000", "memory"},
      {"<memory unit='KiB'>2000000", "<memory unit='KiB'>4000000", "memory"},
      {">4194304<", ">8388608<", "maxMemory"},
      {"current='2'>4<", "current='2'>8<", "vcpu"},
      {" current='2'", "", "vcpu/@current"},
      {" current='2'", " current='3'", "vcpu/@current"},
      {"<iothreads>1<", "<iothreads>2<", "iothreads"},
      {"<memoryBacking><hugepages/>", "<memoryBacking><hugepages/><locked/>",
       "memoryBacking/locked"},
      {"mode='custom'", "mode='host-passthrough'", "cpu/@mode"},
      {">Nehalem<", ">EPYC<", "cpu/model"},
      {"cores='4'", "cores='2'", "cpu/topology/@cores"},
      {"name='vmx'", "name='svm'", "cpu/feature[svm]"},
      {"cpus='0-3' memory='2000000'", "cpus='0-3' memory='1000000'", "cpu/numa/cell/@memory"},
      {"cpus='0-3'", "cpus='0-1'", "cpu/numa/cell/@cpus"},
      {"unit='KiB'/></numa>", "unit='KiB'/><cell id='1' memory='1' unit='KiB'/></numa>",
       "cpu/numa"},
      {"tickpolicy='catchup'", "tickpolicy='delay'", "clock/timer[rtc]/@tickpolicy"},
      {"<timer name='hpet' present='no'/>", "<timer name='hpet' present='yes'/>",
       "clock/timer[hpet]/@present"},
      {"<boot dev='hd'/>", "<boot dev='network'/>", "os/boot/@dev"},
      {"<boot dev='hd'/>", "<boot dev='hd'/><boot dev='network'/>", "os/boot[2]"},
      {"<loader secure='no'/>", "<loader>/other.fd</loader>", "os/loader"},
      {"<apic/>", "<apic/><pae/>", "features/pae"},
      {">restart<", ">destroy<", "on_reboot"},
      {"qemu-system-x86_64", "qemu-kvm", "devices/emulator"},
      {"cache='none'", "cache='writeback'", "devices/disk[vda]/driver/@cache"},
      {" io='native'", " io='threads'", "devices/disk[vda]/driver/@io"},
      {">ROOT<", ">DATA<", "devices/disk[vda]/serial"},
      {"<boot order='1'/>", "<boot order='2'/>", "devices/disk[vda]/boot/@order"},
      {"network='default'", "network='other'",
       "devices/interface[52:54:00:00:00:01]/source/@network"},
      {"bridge='br0'", "bridge='br1'", "devices/interface[52:54:00:00:00:02]/source/@bridge"},
      {"<interface type='bridge'>", "<interface type='user'>",
       "devices/interface[52:54:00:00:00:02]/@type"},
      {"type='e1000e'", "type='virtio'", "devices/interface[52:54:00:00:00:02]/model/@type"},
      {"52:54:00:00:00:01", "52:54:00:00:00:03", "devices/interface[52:54:00:00:00:03]"},
      {"<serial type='pty'>", "<serial type='tcp'>", "devices/serial/@type"},
      {"<input type='tablet'", "<input type='keyboard'", "devices/input/@type"},
      {"<graphics type='vnc'", "<graphics type='spice'", "devices/graphics/@type"},
      {"<video><model type='virtio'", "<video><model type='qxl'", "devices/video/model/@type"},
      {"bus='0x06'", "bus='0x07'", "devices/hostdev/source/address/@bus"},
      {"0xbeef", "0xbeee", "devices/hostdev[2]/source/product/@id"},
      {"model='random'>/dev/urandom", "model='random'>/dev/random", "devices/rng/backend"},
      {"<memballoon model='virtio'>", "<memballoon model='none'>", "devices/memballoon/@model"},
      {">524288<", ">1048576<", "devices/memory/target/size"},
      {"</devices>", "<tpm model='tpm-crb'/></devices>", "devices/tpm"},
      {"'-no-hpet'", "'-no-acpi'", "qemu:commandline/qemu:arg/@value"},
  };
  for (const Change& change : changes) {
    const auto found = FirstPending(Replaced(kSaved, change.before, change.after), Live());
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(*found, change.where) << change.before << " -> " << change.after;
  }
}

// They were plugged into the running domain only, and would be gone.
TEST(PendingTest, WhatOnlyTheRunningDomainHasIsNamed) {
  for (const char* device : {"interface", "hostdev", "filesystem", "memory", "watchdog", "shmem"}) {
    const std::string name = device;
    const auto found = FirstPending(
        kSaved, Replaced(Live(), "</devices>", ("<" + name + " model='x'/></devices>").c_str()));
    const bool second = name == "memory", third = name == "hostdev";
    EXPECT_EQ(found.value(), "devices/" + name + (second ? "[2]" : third ? "[3]" : "")) << device;
  }
  // libvirt adds these by itself.
  EXPECT_EQ(FirstPending(kSaved, Replaced(Live(), "</devices>",
                                          "<controller type='pci' index='9'/><audio id='1' "
                                          "type='none'/><panic model='isa'/></devices>"))
                .value(),
            "");
}

TEST(PendingTest, NoValueIsShown) {
  const std::string secret = Replaced(kSaved, "<qemu:arg value='-no-hpet'/>",
                                      "<qemu:arg value='-no-hpet'/><qemu:env name='s3cr3t'/>");
  EXPECT_EQ(FirstPending(secret, Live()).value(), "qemu:commandline/qemu:env");
}

TEST(PendingTest, WhatCannotBeReadIsAnError) {
  EXPECT_FALSE(FirstPending(kSaved, "<domain>").ok());
  EXPECT_FALSE(FirstPending("", kSaved).ok());
}

}  // namespace
}  // namespace virt_reclaim::xml
