#include "tests/contract/corpus_domains.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <tuple>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/io.h"
#include "base/status.h"
#include "xml-tools/domain.h"

namespace virt_reclaim {
namespace {

constexpr size_t kMaxBytes = size_t{4} << 20;
// As in tests/lib/vrtest/host.py; and no file of this machine gets another owner.
constexpr char kQemuConf[] = R"(stdio_handler = "file"
security_driver = "none"
namespaces = []
cgroup_controllers = []
user = "root"
group = "root"
dynamic_ownership = 0
)";

// Where the text of the first element <name> is; npos: there is none.
std::pair<size_t, size_t> FirstText(const std::string& text, const std::string& name,
                                    size_t from = 0) {
  const std::string open = absl::StrCat("<", name, ">");
  const size_t begin = text.find(open, from);
  const size_t end = begin == std::string::npos ? begin : text.find('<', begin + open.size());
  if (end == std::string::npos) return {end, end};
  return {begin + open.size(), end};
}

// Under a name and UUID of its own, for this QEMU without KVM; empty: of another architecture.
std::string ForThisHost(std::string text, const std::string& name, const std::string& uuid) {
  const auto says = [&](const char* arch) {
    return absl::StrContains(text, absl::StrCat("arch='", arch, "'")) ||
           absl::StrContains(text, absl::StrCat("arch=\"", arch, "\""));
  };
  if (!says("x86_64") && !says("i686")) return "";
  text = absl::StrReplaceAll(text, {{"arch='i686'", "arch='x86_64'"},
                                    {"arch=\"i686\"", "arch='x86_64'"},
                                    {"<domain type='kvm'", "<domain type='qemu'"},
                                    {"<domain type=\"kvm\"", "<domain type='qemu'"}});
  const auto [name_at, name_end] = FirstText(text, "name");
  if (name_at == std::string::npos) return "";
  text.replace(name_at, name_end - name_at, name);
  if (const auto [at, end] = FirstText(text, "uuid"); at != std::string::npos) {
    text.replace(at, end - at, uuid);
  } else {
    text.insert(text.find("</name>", name_at) + 7, absl::StrCat("<uuid>", uuid, "</uuid>"));
  }
  for (auto [at, end] = FirstText(text, "emulator"); at != std::string::npos;
       std::tie(at, end) = FirstText(text, "emulator", at)) {
    text.replace(at, end - at, CorpusDomains::kEmulator);
  }
  return text;
}

// What scripts/fetch-corpus prints; empty: there is no corpus to be had.
std::string CorpusDirectory(const std::string& fetch) {
  FILE* const pipe = popen(absl::StrCat("'", fetch, "'").c_str(), "re");
  if (pipe == nullptr) return "";
  std::string directory;
  char part[256];
  while (fgets(part, sizeof part, pipe) != nullptr) directory += part;
  if (pclose(pipe) != 0) return "";
  return std::string(absl::StripTrailingAsciiWhitespace(directory));
}

std::vector<std::filesystem::path> FilesOf(const std::string& directory) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (entry.path().extension() == ".xml" && entry.is_regular_file() && !entry.is_symlink())
      files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

CorpusDomains::CorpusDomains(TemporaryDirectory root, std::unique_ptr<Hypervisor> hypervisor,
                             std::string directory)
    : root_(std::move(root)),
      hypervisor_(std::move(hypervisor)),
      directory_(std::move(directory)),
      files_(FilesOf(directory_)) {}

absl::StatusOr<std::string> CorpusDomains::Find(const std::string& fetch) {
  if (geteuid() != 0)
    return absl::PermissionDeniedError("needs root: libvirt's QEMU driver, embedded, asks for it");
  if (access(kEmulator, X_OK) != 0)
    return absl::NotFoundError(absl::StrCat("no ", kEmulator, ": scripts/install-packages run"));
  std::string directory = CorpusDirectory(fetch);
  if (directory.empty()) {
    return absl::NotFoundError(
        "the corpus cannot be fetched: no source package of libvirt (no network, or not a "
        "Debian)");
  }
  return directory;
}

absl::StatusOr<CorpusDomains> CorpusDomains::Open(std::string directory) {
  VR_ASSIGN_OR_RETURN(TemporaryDirectory root,
                      TemporaryDirectory::Make(std::filesystem::temp_directory_path().string(),
                                               "virt-reclaim-corpus."));
  VR_RETURN_IF_ERROR(MakeDirectories(root.path() + "/etc"));
  VR_RETURN_IF_ERROR(WriteFileDurably(root.path() + "/etc/qemu.conf", kQemuConf, 0600));
  VR_ASSIGN_OR_RETURN(
      std::unique_ptr<Hypervisor> hypervisor,
      ConnectLibvirt({.uri = absl::StrCat("qemu:///embed?root=", root.path())}, {}));
  return CorpusDomains(std::move(root), std::move(hypervisor), std::move(directory));
}

int CorpusDomains::Main(int argc, char** argv,
                        const std::function<absl::StatusOr<bool>(CorpusDomains&)>& run) {
  constexpr int kFailed = 1, kUsage = 2, kSkipped = 77;
  if (argc != 2) {
    std::cerr << "usage: " << program_invocation_short_name << " FETCH-CORPUS\n";
    return kUsage;
  }
  auto directory = Find(argv[1]);
  if (!directory.ok()) {
    std::cout << "SKIP: " << directory.status() << "\n";
    return kSkipped;
  }
  const auto passed = [&]() -> absl::StatusOr<bool> {
    VR_ASSIGN_OR_RETURN(CorpusDomains domains, Open(*std::move(directory)));
    return run(domains);
  }();
  if (!passed.ok()) std::cerr << passed.status() << "\n";
  return passed.ok() && *passed ? 0 : kFailed;
}

void CorpusDomains::ForEach(int every, const std::function<void(const CorpusDomain&)>& use) {
  int asked = 0;
  if (const char* text = std::getenv("VR_EVERY"); text != nullptr && absl::SimpleAtoi(text, &asked))
    every = std::max(asked, 1);
  int number = 0, of_this_host = 0;
  for (const std::filesystem::path& file : files_) {
    const auto text = ReadFile(file.string(), kMaxBytes);
    if (!text.ok()) continue;
    ++number;
    CorpusDomain domain;
    domain.file = file.lexically_relative(directory_).string();
    domain.uuid = absl::StrFormat("7c0ffee0-0000-4000-8000-%012d", number);
    domain.xml = ForThisHost(*text, absl::StrCat("d", number), domain.uuid);
    if (domain.xml.empty() || !xml::ParseDomain(domain.xml).ok()) continue;
    if (of_this_host++ % every == 0) use(domain);
  }
}

}  // namespace virt_reclaim
