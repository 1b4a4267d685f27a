// stored_corpus FETCH-CORPUS: what libvirt's QEMU driver stores of its own tests' domains,
// rewritten as migrate does, is what it was given (xml-tools/stored.h).
//
// Every domain that the driver takes on this host is defined until libvirt keeps it as it is, read,
// rewritten in each mode, defined again and read back. Nothing may differ, and a change that
// libvirt had dropped would be seen. Prints the counts; exit 1 on any difference, 77 when it cannot
// be tried here. No domain is started.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/io.h"
#include "base/temporary_directory.h"
#include "host/services/hypervisor.h"
#include "xml-tools/rewrite.h"
#include "xml-tools/stored.h"

namespace virt_reclaim {
namespace {

constexpr int kFailed = 1, kSkipped = 77;
constexpr char kEmulator[] = "/usr/bin/qemu-system-x86_64";
constexpr size_t kMaxBytes = size_t{4} << 20;
// Fewer are no corpus.
constexpr int kFewest = 100;
// As in tests/lib/vrtest/host.py.
constexpr char kQemuConf[] = R"(stdio_handler = "file"
security_driver = "none"
namespaces = []
cgroup_controllers = []
user = "root"
group = "root"
)";

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
  int files = 0, for_this_host = 0, defined = 0, refused = 0, unsettled = 0, left_alone = 0,
      compared = 0, changed = 0, wrong = 0;
};

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
    text.replace(at, end - at, kEmulator);
  }
  return text;
}

class Corpus {
 public:
  Corpus(Hypervisor& hypervisor, std::vector<Mode> modes)
      : hypervisor_(hypervisor), modes_(std::move(modes)) {}

  void Try(const std::string& file, const std::string& text) {
    ++counts_.files;
    const std::string uuid = absl::StrFormat("7c0ffee0-0000-4000-8000-%012d", counts_.files);
    const std::string mine = ForThisHost(text, absl::StrCat("d", counts_.files), uuid);
    if (mine.empty() || !xml::ParseDomain(mine).ok()) return;
    ++counts_.for_this_host;
    if (!hypervisor_.Define(mine).ok()) {
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

int Skip(const std::string& why) {
  std::cout << "SKIP: " << why << "\n";
  return kSkipped;
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

int Report(const Counts& counts) {
  std::cout << counts.files << " files, " << counts.for_this_host << " domains for this host, "
            << counts.refused << " refused by libvirt, " << counts.defined << " defined, "
            << counts.unsettled << " of them never the same; " << counts.compared
            << " definitions compared, " << counts.changed << " of them changed, "
            << counts.left_alone << " left alone by the rewriter; " << counts.wrong
            << " differences\n";
  const bool many = counts.defined >= kFewest && counts.changed >= kFewest;
  return counts.wrong > 0 || counts.unsettled > counts.defined / 100 || !many ? kFailed : 0;
}

int Run(const std::string& fetch) {
  if (geteuid() != 0) return Skip("needs root: libvirt's QEMU driver, embedded, asks for it");
  if (access(kEmulator, X_OK) != 0)
    return Skip(absl::StrCat("no ", kEmulator, ": scripts/install-packages run"));
  const std::string directory = CorpusDirectory(fetch);
  if (directory.empty()) {
    return Skip(
        "the corpus cannot be fetched: no source package of libvirt (no network, or not a "
        "Debian)");
  }
  const auto root = TemporaryDirectory::Make(std::filesystem::temp_directory_path().string(),
                                             "virt-reclaim-corpus.");
  if (!root.ok()) return Skip(root.status().ToString());
  absl::Status made = MakeDirectories(root->path() + "/etc");
  made.Update(WriteFileDurably(root->path() + "/etc/qemu.conf", kQemuConf, 0600));
  if (!made.ok()) return Skip(made.ToString());
  const auto hypervisor =
      ConnectLibvirt(absl::StrCat("qemu:///embed?root=", root->path()), /*debug=*/false);
  if (!hypervisor.ok())
    return Skip(absl::StrCat("no QEMU driver: ", hypervisor.status().ToString()));
  const auto machines = (*hypervisor)->MachineTypes("x86_64", "qemu");
  if (!machines.ok()) return Skip(machines.status().ToString());
  Corpus corpus(**hypervisor, Modes(*machines));
  for (const std::filesystem::path& file : FilesOf(directory)) {
    const auto text = ReadFile(file.string(), kMaxBytes);
    if (text.ok()) corpus.Try(file.lexically_relative(directory).string(), *text);
  }
  return Report(corpus.counts());
}

}  // namespace
}  // namespace virt_reclaim

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: stored_corpus FETCH-CORPUS\n";
    return 2;
  }
  return virt_reclaim::Run(argv[1]);
}
