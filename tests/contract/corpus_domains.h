// The domains of libvirt's own tests, made ready for libvirt's QEMU driver, embedded and with a
// root directory of its own.
#ifndef VIRT_RECLAIM_TESTS_CONTRACT_CORPUS_DOMAINS_H_
#define VIRT_RECLAIM_TESTS_CONTRACT_CORPUS_DOMAINS_H_

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/temporary_directory.h"
#include "host/services/hypervisor.h"

namespace virt_reclaim {

struct CorpusDomain {
  std::string file;  // relative to the corpus
  std::string uuid;
  std::string xml;  // under a name and UUID of its own, for this QEMU without KVM
};

class CorpusDomains {
 public:
  static constexpr char kEmulator[] = "/usr/bin/qemu-system-x86_64";

  Hypervisor& hypervisor() { return *hypervisor_; }
  // The main function of a test over them, `TEST FETCH-CORPUS` (scripts/fetch-corpus). Returns its
  // exit status: 0 when `run` says true, 77 when there is no corpus here, or nobody who may try it,
  // else 1.
  static int Main(int argc, char** argv,
                  const std::function<absl::StatusOr<bool>(CorpusDomains&)>& run);

  int files() const { return static_cast<int>(files_.size()); }
  // Of the domains in them that are of this machine's architecture each `every`-th, or as VR_EVERY
  // says: 1 for all.
  void ForEach(int every, const std::function<void(const CorpusDomain&)>& use);

 private:
  // The directory of the corpus. An error: it cannot be tried here, and why.
  static absl::StatusOr<std::string> Find(const std::string& fetch);
  static absl::StatusOr<CorpusDomains> Open(std::string directory);

  CorpusDomains(TemporaryDirectory root, std::unique_ptr<Hypervisor> hypervisor,
                std::string directory);

  TemporaryDirectory root_;
  std::unique_ptr<Hypervisor> hypervisor_;
  std::string directory_;
  std::vector<std::filesystem::path> files_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_TESTS_CONTRACT_CORPUS_DOMAINS_H_
