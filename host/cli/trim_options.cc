#include "host/cli/trim_options.h"

namespace virt_reclaim {
namespace {

// It pauses longer than it works.
constexpr absl::Duration kGentleTimeout = absl::Hours(8);

}  // namespace

TrimOptions TrimOptionsOf(const CommandLine& line) {
  TrimOptions options;
  options.domains = line.domains;
  options.guest = {line.mount_points, line.minimum, line.chunk, line.pause};
  options.guest.max_rate = line.max_rate;
  options.paced = !line.given.contains("--chunk") && !line.given.contains("--pause");
  options.gentle = line.gentle;
  options.timeout =
      line.gentle && !line.given.contains("--timeout") ? kGentleTimeout : line.timeout;
  options.way = line.way;
  options.storage = line.storage;
  options.threshold = line.threshold;
  options.min_freed = line.min_freed;
  options.estimate = line.dry_run;
  options.per_storage = line.per_storage;
  options.window = line.window;
  options.max_duration = line.max_duration;
  return options;
}

}  // namespace virt_reclaim
