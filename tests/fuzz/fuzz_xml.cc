// Any bytes through the rewriter, in the mode that the first byte chooses: no crash; what comes out
// is read again, changes nothing in a second run, and is the input when nothing was changed.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/string_view.h"
#include "xml-tools/rewrite.h"

namespace {

using namespace virt_reclaim::xml;

// '<' and a byte order mark, with which real texts begin, mean the default.
RewriteOptions OptionsOf(uint8_t mode) {
  RewriteOptions options;
  if (mode == '<' || mode == 0xef) return options;
  options.discard = static_cast<DiscardPolicy>(mode % 3);
  options.bus = static_cast<BusPolicy>(mode / 3 % 3);
  options.channel = static_cast<ChannelPolicy>(mode / 9 % 2);
  options.machine = static_cast<MachinePolicy>(mode / 18 % 4);
  options.detect_zeroes = static_cast<DetectZeroesPolicy>(mode / 72 % 4);
  options.machine_name = "pc-q35-7.2";
  if (mode >= 144) options.known_machines = {"pc-q35-7.2", "pc-i440fx-7.2", "pc-q35-rhel9.4.0"};
  return options;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const RewriteOptions options = OptionsOf(data[0]);
  const bool is_mode = data[0] != '<' && data[0] != 0xef;
  absl::string_view text(reinterpret_cast<const char*>(data), size);
  if (is_mode) text.remove_prefix(1);
  const auto once = Rewrite(text, options);
  if (!once.ok()) {
    if (absl::IsInternal(once.status()) && size + 100'000 < kMaxXmlBytes)
      std::abort();  // a failed proof
    return 0;
  }
  if (once->changes.empty() != (once->text == text)) std::abort();
  const auto twice = Rewrite(once->text, options);
  if (!twice.ok() || !twice->changes.empty() || twice->text != once->text) std::abort();
  static_cast<void>(UnifiedDiff(text, once->text, "a", "b"));
  return 0;
}
