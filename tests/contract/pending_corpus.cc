// pending_corpus FETCH-CORPUS: what libvirt fills in when it starts a domain is no change that
// waits for a power cycle (xml-tools/pending.h).
//
// Every domain of libvirt's own tests that its QEMU driver can start here without its disks (those
// are of other machines) is started and put off again; between its definition and its live XML
// nothing may be pending, and a device more in the definition has to be. The disks are those of the
// guests of tests/integration. Prints the counts; exit 1 on any difference, 77 when it cannot be
// tried here.
//
// Of every kEvery-th domain only: each start costs a second. VR_EVERY=1: of all.
#include <algorithm>
#include <iostream>
#include <iterator>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "host/services/hypervisor.h"
#include "tests/contract/corpus_domains.h"
#include "xml-tools/pending.h"

namespace virt_reclaim {
namespace {

constexpr int kEvery = 20;
// Fewer are no corpus.
constexpr int kFewest = 20;
constexpr char kOneMore[] =
    "<shmem name='one-more'><model type='ivshmem-plain'/></shmem></devices>";

std::string WithoutDisks(std::string xml) {
  const std::string close = "</disk>";
  for (size_t at = xml.find("<disk "); at != std::string::npos; at = xml.find("<disk ", at)) {
    const size_t end = xml.find(close, at);
    if (end == std::string::npos) break;
    xml.erase(at, end + close.size() - at);
  }
  return xml;
}

// Whether it may be started: it names nothing of this machine, whose files, devices, interfaces and
// ports belong to somebody else.
bool IsHarmless(std::string xml) {
  xml = absl::StrReplaceAll(xml, {{absl::StrCat("<emulator>", CorpusDomains::kEmulator), ""},
                                  {">/dev/urandom<", ""},
                                  {">/dev/random<", ""},
                                  {"<interface type='user'", ""}});
  static constexpr const char* kForeign[] = {
      "<hostdev", "<interface", "<filesystem", "<redirdev",  "service=", "0.0.0.0",
      "<vsock",   "<hugepages", "commandline", "<smartcard", "<tpm",     "<lease"};
  if (std::any_of(std::begin(kForeign), std::end(kForeign),
                  [&](const char* foreign) { return absl::StrContains(xml, foreign); }))
    return false;
  // A path: '/dev/ttyS2', >/boot/vmlinuz; no end of an element: '/>.
  for (size_t at = xml.find('/', 1); at != std::string::npos; at = xml.find('/', at + 1)) {
    if (absl::StrContains("'\">", xml.substr(at - 1, 1)) && at + 1 < xml.size() &&
        absl::ascii_isalnum(xml[at + 1]))
      return false;
  }
  return true;
}

struct Counts {
  int looked_at = 0, harmless = 0, defined = 0, started = 0, wrong = 0;
};

class Pairs {
 public:
  explicit Pairs(Hypervisor& hypervisor) : hypervisor_(hypervisor) {}

  void Try(const CorpusDomain& domain) {
    ++counts_.looked_at;
    const std::string xml = WithoutDisks(domain.xml);
    if (!IsHarmless(xml)) return;
    ++counts_.harmless;
    if (!hypervisor_.Define(xml).ok()) return;
    ++counts_.defined;
    if (!hypervisor_.Start(domain.uuid).ok()) return;
    ++counts_.started;
    const std::string wrong = Wrong(domain.uuid);
    if (const absl::Status off = hypervisor_.PowerOff(domain.uuid); !off.ok())
      std::cout << domain.file << ": " << off << "\n";
    if (wrong.empty()) return;
    ++counts_.wrong;
    std::cout << domain.file << ": " << wrong << "\n";
  }
  const Counts& counts() const { return counts_; }

 private:
  std::string Wrong(const std::string& uuid) {
    const auto saved = hypervisor_.DomainXml(uuid, Hypervisor::Xml::kInactive);
    const auto live = hypervisor_.DomainXml(uuid, Hypervisor::Xml::kLive);
    if (!saved.ok() || !live.ok())
      return absl::StrCat(saved.status().ToString(), live.status().ToString());
    const auto pending = xml::FirstPending(*saved, *live);
    if (!pending.ok()) return pending.status().ToString();
    if (!pending->empty()) return absl::StrCat("pending: ", *pending);
    const auto one_more =
        xml::FirstPending(absl::StrReplaceAll(*saved, {{"</devices>", kOneMore}}), *live);
    return one_more.ok() && !one_more->empty() ? "" : "a device more would not be seen";
  }

  Hypervisor& hypervisor_;
  Counts counts_;
};

absl::StatusOr<bool> Run(CorpusDomains& domains) {
  Pairs pairs(domains.hypervisor());
  domains.ForEach(kEvery, [&](const CorpusDomain& domain) { pairs.Try(domain); });
  const Counts& counts = pairs.counts();
  std::cout << counts.looked_at << " domains, " << counts.harmless
            << " name nothing of this machine but disks, which are left out; " << counts.defined
            << " defined, " << counts.started << " started, " << counts.wrong
            << " with something pending\n";
  return counts.wrong == 0 && counts.started >= kFewest;
}

}  // namespace
}  // namespace virt_reclaim

int main(int argc, char** argv) {
  return virt_reclaim::CorpusDomains::Main(argc, argv, virt_reclaim::Run);
}
