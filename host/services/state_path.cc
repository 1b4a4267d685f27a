#include "host/services/state_path.h"

#include <openssl/evp.h>

#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace virt_reclaim {
namespace {

std::string DirectoryName(absl::string_view uri) {
  std::string name;
  for (const char c : uri) {
    const auto byte = static_cast<unsigned char>(c);
    if (absl::ascii_isalnum(byte) || c == '-' || c == '.') {
      name += c;
    } else {
      name += absl::StrFormat("%%%02X", byte);
    }
  }
  // A longer one keeps its beginning for the reader and stays unique.
  constexpr size_t kKeep = 160;
  return name.size() <= kKeep + 64 ? name : absl::StrCat(name.substr(0, kKeep), Digest(uri));
}

}  // namespace

std::string StatePath(const std::string& state_directory, absl::string_view kind,
                      absl::string_view uri) {
  return absl::StrCat(state_directory, "/", kind, "/", DirectoryName(uri));
}

std::string Digest(absl::string_view text) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned length = 0;
  EVP_Digest(text.data(), text.size(), digest.data(), &length, EVP_sha256(), nullptr);
  return absl::BytesToHexString(
      absl::string_view(reinterpret_cast<const char*>(digest.data()), length));
}

}  // namespace virt_reclaim
