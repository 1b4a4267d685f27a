// A run that waits for windows: what is left for them, and the wait.
#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "host/commands/run.h"

namespace virt_reclaim {
namespace {

// How soon a stop request, or a clock that was set, is seen.
constexpr absl::Duration kLookAtClock = absl::Seconds(1);

std::pair<bool, std::string> NameOf(const RunItem& item) { return {item.is_domain, item.name}; }

}  // namespace

RunNames LeftForWindow(const std::vector<RunItem>& items) {
  RunNames left;
  for (const RunItem& item : items) {
    if (item.window) left.insert(NameOf(item));
  }
  return left;
}

absl::Time NextWindow(const std::vector<RunItem>& items, absl::Time now) {
  absl::Time next = absl::InfiniteFuture();
  for (const RunItem& item : items) {
    if (item.window) next = std::min(next, BeginOf(*item.window, now, absl::LocalTimeZone()));
  }
  return next;
}

bool WaitForWindow(const Services& services, const std::vector<RunItem>& items, absl::Time limit,
                   const std::function<void(absl::Time opens)>& waits,
                   const std::stop_token& stop) {
  for (bool told = false; !stop.stop_requested(); told = true) {
    const absl::Time now = services.now();
    const absl::Time opens = NextWindow(items, now);
    if (now > limit || opens > limit) return false;
    if (opens <= now) return true;
    if (!told && waits) waits(opens);
    services.sleep(std::min(opens - now, kLookAtClock));
  }
  return false;
}

void Renew(std::vector<RunItem>& items, const RunNames& asked, std::vector<RunItem> later) {
  std::map<std::pair<bool, std::string>, RunItem> said;
  for (RunItem& item : later) said.insert_or_assign(NameOf(item), std::move(item));
  for (RunItem& item : items) {
    if (!item.window || !asked.contains(NameOf(item))) continue;
    const auto found = said.find(NameOf(item));
    if (found == said.end()) {
      item.window.reset();
    } else {
      item = std::move(found->second);
      said.erase(found);
    }
  }
  for (auto& [name, item] : said) items.push_back(std::move(item));
}

}  // namespace virt_reclaim
