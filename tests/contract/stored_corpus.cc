// stored_corpus FETCH-CORPUS: what libvirt's QEMU driver stores of its own tests' domains,
// rewritten as migrate does, is what it was given (xml-tools/stored.h).
//
// Of every kEvery-th domain (VR_EVERY=1: of all). One that the driver takes on this host is defined
// until libvirt keeps it as it is, read, rewritten in each mode, defined again and read back.
// Nothing may differ, and a change that libvirt had dropped would be seen. Prints the counts; exit
// 1 on any difference, 77 when it cannot be tried here. No domain is started.
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "host/services/hypervisor.h"
#include "tests/contract/corpus_domains.h"
#include "xml-tools/rewrite.h"
#include "xml-tools/stored.h"

namespace virt_reclaim {
namespace {

// Fewer are no corpus.
constexpr int kFewest = 100;
constexpr int kEvery = 4;
// libvirt fills in a definition, and what it filled in may lead it to fill in more: as often it may
// be given what it stored.
constexpr int kSettling = 4;

struct Mode {
  const char* name;
  xml::RewriteOptions options;
};

std::vector<Mode> Modes(const std::vector<std::string>& machines) {
  xml::RewriteOptions most;
  most.machine = xml::MachinePolicy::kLatest;
  most.known_machines = machines;
  most.detect_zeroes = xml::DetectZeroesPolicy::kOn;
  most.bus = xml::BusPolicy::kVirtioScsi;
  most.channel = xml::ChannelPolicy::kAdd;
  return {{"default", {}}, {"all", most}};
}

struct Counts {
  int for_this_host = 0, defined = 0, refused = 0, unsettled = 0, left_alone = 0, compared = 0,
      changed = 0, wrong = 0;
};

class Corpus {
 public:
  Corpus(Hypervisor& hypervisor, std::vector<Mode> modes)
      : hypervisor_(hypervisor), modes_(std::move(modes)) {}

  void Try(const CorpusDomain& domain) {
    const auto& [file, uuid, text] = domain;
    ++counts_.for_this_host;
    if (!hypervisor_.Define(text).ok()) {
      ++counts_.refused;
      return;
    }
    ++counts_.defined;
    if (!Settles(uuid)) {
      ++counts_.unsettled;
      std::cout << file << ": libvirt does not keep what it stored itself\n";
      return;
    }
    for (const Mode& mode : modes_) {
      const std::string wrong = Wrong(uuid, mode);
      if (wrong.empty()) continue;
      ++counts_.wrong;
      std::cout << file << ": " << mode.name << ": " << wrong << "\n";
    }
  }
  const Counts& counts() const { return counts_; }

 private:
  absl::StatusOr<std::string> Stored(const std::string& uuid) {
    return hypervisor_.DomainXml(uuid, Hypervisor::Xml::kInactiveWithSecrets);
  }

  // False: libvirt refuses what it stored, or stores something else each time.
  bool Settles(const std::string& uuid) {
    auto before = Stored(uuid);
    for (int i = 0; i < kSettling && before.ok(); ++i) {
      if (!hypervisor_.Define(*before).ok()) return false;
      auto after = Stored(uuid);
      if (!after.ok()) return false;
      if (*after == *before) return true;
      before = std::move(after);
    }
    return false;
  }

  // Empty: libvirt stored what it was given.
  std::string Wrong(const std::string& uuid, const Mode& mode) {
    const auto before = Stored(uuid);
    if (!before.ok()) return before.status().ToString();
    const auto rewritten = xml::Rewrite(*before, mode.options);
    if (!rewritten.ok()) {
      ++counts_.left_alone;
      return absl::IsInternal(rewritten.status()) ? rewritten.status().ToString() : "";
    }
    if (const absl::Status status = hypervisor_.Define(rewritten->text); !status.ok())
      return absl::StrCat("refused by libvirt: ", status.message());
    const auto after = Stored(uuid);
    if (!after.ok()) return after.status().ToString();
    ++counts_.compared;
    const auto difference = xml::FirstDifference(rewritten->text, *after);
    if (!difference.ok()) return difference.status().ToString();
    if (!difference->empty()) return *difference;
    if (rewritten->changes.empty()) return "";
    ++counts_.changed;
    const auto dropped = xml::FirstDifference(rewritten->text, *before);
    return dropped.ok() && dropped->empty() ? "a change that is dropped would not be seen" : "";
  }

  Hypervisor& hypervisor_;
  const std::vector<Mode> modes_;
  Counts counts_;
};

// Whether it is right.
bool Report(int files, const Counts& counts) {
  std::cout << files << " files, " << counts.for_this_host << " domains for this host, "
            << counts.refused << " refused by libvirt, " << counts.defined << " defined, "
            << counts.unsettled << " of them never the same; " << counts.compared
            << " definitions compared, " << counts.changed << " of them changed, "
            << counts.left_alone << " left alone by the rewriter; " << counts.wrong
            << " differences\n";
  const bool many = counts.defined >= kFewest && counts.changed >= kFewest;
  return counts.wrong == 0 && counts.unsettled <= counts.defined / 100 && many;
}

absl::StatusOr<bool> Run(CorpusDomains& domains) {
  VR_ASSIGN_OR_RETURN(const xml::HostMachines machines,
                      domains.hypervisor().MachineTypes("x86_64", "qemu"));
  Corpus corpus(domains.hypervisor(), Modes(machines.names));
  domains.ForEach(kEvery, [&](const CorpusDomain& domain) { corpus.Try(domain); });
  return Report(domains.files(), corpus.counts());
}

}  // namespace
}  // namespace virt_reclaim

int main(int argc, char** argv) {
  return virt_reclaim::CorpusDomains::Main(argc, argv, virt_reclaim::Run);
}
