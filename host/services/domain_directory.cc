#include "host/services/domain_directory.h"

#include <filesystem>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace virt_reclaim {
namespace {

constexpr char kSystemDirectories[] = "/var/lib/libvirt/qemu";
constexpr absl::string_view kRoot = "root=";

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// "%2F" becomes "/".
std::string WithoutPercents(absl::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool escaped = text[i] == '%' && i + 2 < text.size() && HexDigit(text[i + 1]) >= 0 &&
                         HexDigit(text[i + 2]) >= 0;
    plain.push_back(escaped ? static_cast<char>(HexDigit(text[i + 1]) * 16 + HexDigit(text[i + 2]))
                            : text[i]);
    if (escaped) i += 2;
  }
  return plain;
}

std::string EmbeddedRoot(absl::string_view uri) {
  const size_t query = uri.find('?');
  if (query == absl::string_view::npos) return "";
  for (absl::string_view rest = uri.substr(query + 1); !rest.empty();) {
    const size_t end = rest.find_first_of("&;#");
    absl::string_view word = rest.substr(0, end);
    if (absl::ConsumePrefix(&word, kRoot)) return WithoutPercents(word);
    rest.remove_prefix(end == absl::string_view::npos ? rest.size() : end + 1);
  }
  return "";
}

}  // namespace

std::string DomainDirectories(absl::string_view uri) {
  const size_t colon = uri.find(':');
  const absl::string_view scheme = uri.substr(0, colon);
  if (colon == absl::string_view::npos || (scheme != "qemu" && scheme != "qemu+unix")) return "";
  const absl::string_view rest = uri.substr(colon);
  if (absl::StartsWith(rest, ":///system")) return kSystemDirectories;
  if (!absl::StartsWith(rest, ":///embed")) return "";
  const std::string root = EmbeddedRoot(rest);
  return absl::StartsWith(root, "/") ? absl::StrCat(root, "/lib/qemu") : "";
}

// What is cut, and by what locale, is libvirt's: so it is looked for. A longer name wins over one
// that a power cut has left behind, which had the same number and a name that begins this one.
std::string FindDomainDirectory(const std::string& directories, unsigned id,
                                absl::string_view name) {
  if (directories.empty()) return "";
  const std::string prefix = absl::StrCat("domain-", id, "-");
  std::string found;
  std::error_code error;
  for (std::filesystem::directory_iterator entry(directories, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string file = entry->path().filename();
    absl::string_view rest = file;
    if (!absl::ConsumePrefix(&rest, prefix) || rest.empty() || !absl::StartsWith(name, rest))
      continue;
    std::error_code ignored;
    if (!std::filesystem::is_directory(entry->symlink_status(ignored))) continue;
    if (file.size() > found.size()) found = file;
  }
  return found.empty() ? "" : absl::StrCat(directories, "/", found);
}

}  // namespace virt_reclaim
