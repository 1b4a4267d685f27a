// Any bytes as what a guest tells of its filesystems and devices: explain ends, with layers that
// are few and printable, with codes that are what the table of reasons says, and with JSON that is
// valid.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "base/byte_size.h"
#include "base/escape.h"
#include "host/cli/explain_output.h"
#include "host/model/assessment.h"
#include "host/model/guest_disks.h"
#include "host/services/guest_filesystems_proto.h"

namespace virt_reclaim {
namespace {

constexpr size_t kMostLayers = 700;

void Expect(bool good) {
  if (!good) std::abort();
}

xml::Domain TwoDisks() {
  xml::Domain domain;
  domain.type = "kvm";
  domain.arch = "x86_64";
  domain.machine = "pc-q35-7.2";
  for (const uint32_t slot : {5u, 6u}) {
    xml::Disk disk;
    disk.target = slot == 5 ? "vda" : "vdb";
    disk.bus = "virtio";
    disk.device = "disk";
    disk.discard = "unmap";
    disk.serial = disk.target;
    disk.source = {"file", "raw", "/images/a.raw"};
    disk.pci = xml::PciAddress{0, 0, slot, 0};
    domain.disks.push_back(disk);
  }
  return domain;
}

void CheckBlocker(const Blocker& blocker, bool remark) {
  const InChain in_chain = InChainOf(blocker.reason);
  Expect(remark ? in_chain == InChain::kRemark
                : in_chain == InChain::kCulprit || in_chain == InChain::kUnknown);
  Expect(blocker.detail.find('\n') == std::string::npos);
}

void Check(const DiscardChain& chain) {
  Expect(chain.layers.size() <= kMostLayers);
  for (const Layer& layer : chain.layers) {
    Expect(layer.name.find('\n') == std::string::npos);
    Expect(layer.detail.find('\n') == std::string::npos);
    const bool bad =
        layer.verdict == LayerVerdict::kDrops || layer.verdict == LayerVerdict::kPartly;
    Expect(!bad || (!layer.reasons.empty() &&
                    InChainOf(layer.reasons.front().reason) == InChain::kCulprit));
    for (const Blocker& reason : layer.reasons) CheckBlocker(reason, false);
    for (const Blocker& remark : layer.remarks) CheckBlocker(remark, true);
  }
}

void CheckAnswer(const agent::v1::ListFilesystemsResponse& response) {
  ChainFacts facts;
  facts.live = TwoDisks();
  facts.guest.emplace();
  facts.guest->filesystems = FromProto(response);
  facts.guest_to_target = MatchGuestDisks(facts.live, *facts.guest);
  const auto use = GuestUseByTarget(facts.guest_to_target, *facts.guest);
  ExplainedDomain domain;
  domain.summary.name = "web";
  for (const xml::Disk& xml : facts.live.disks) {
    DiskFacts disk;
    disk.xml = xml;
    disk.usage = {kGiB, 600 * kMiB, kGiB};
    disk.chain = {{"/images/a.raw", "raw", disk.usage, 1, 2}};
    if (const auto found = use.find(xml.target); found != use.end()) disk.guest = found->second;
    const Assessment assessment = Assess(facts.live, disk);
    Expect(!assessment.reclaimable || *assessment.reclaimable <= kGiB);
    ExplainedDisk explained;
    explained.chain = JudgeDiscardChain(facts, disk, {});
    Check(explained.chain);
    if (const Layer* layer = explained.chain.FirstCulprit())
      explained.culprit = Culprit{layer->kind, layer->verdict, layer->reasons.front()};
    domain.disks.push_back(std::move(explained));
  }
  const std::string text = ExplainText({domain}, "");
  Expect(text.find('\x1b') == std::string::npos);
  Expect(nlohmann::json::accept(ExplainJson({domain}, "")));
}

}  // namespace
}  // namespace virt_reclaim

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  virt_reclaim::agent::v1::ListFilesystemsResponse response;
  if (response.ParseFromArray(data, static_cast<int>(size))) virt_reclaim::CheckAnswer(response);
  return 0;
}
