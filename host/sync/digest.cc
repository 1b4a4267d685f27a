#include "host/sync/digest.h"

#include <fcntl.h>
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"
#include "host/punch/data_map.h"
#include "host/punch/sigbus.h"
#include "host/punch/zero_scan.h"
#include "host/sync/piece_reader.h"

namespace virt_reclaim::sync {
namespace {

constexpr int kDigestThreads = 4;

// Digest of one window of the file.
absl::StatusOr<WindowDigests::value_type> DigestWindow(PieceReader& reader, const Window& window,
                                                       const std::function<bool()>& interrupted,
                                                       WindowDigest& digest) {
  digest.Start();
  for (const Step& step : window.steps) {
    for (Range left = step.range; left.begin < left.end;) {
      const Range piece = {left.begin,
                           std::min(left.end, (left.begin / kPieceBytes + 1) * kPieceBytes)};
      if (interrupted()) return absl::AbortedError("somebody wants source or copy");
      VR_RETURN_IF_ERROR(reader.Load({&piece, 1}));
      if (!punch::SurvivesSigbus(
              [&] { digest.Add(piece.begin, reader.At(piece.begin), piece.size()); })) {
        return absl::DataLossError(absl::StrCat("cannot be read back at ", piece.begin));
      }
      left.begin = piece.end;
    }
  }
  return WindowDigests::value_type{window.index, digest.value()};
}

}  // namespace

WindowDigest::WindowDigest() : state_(XXH3_createState()) { Start(); }
WindowDigest::~WindowDigest() { XXH3_freeState(state_); }

void WindowDigest::Start() {
  empty_ = true;
  XXH3_64bits_reset(state_);
}

void WindowDigest::Add(uint64_t offset, const unsigned char* data, uint64_t bytes) {
  for (uint64_t at = 0; at < bytes; at += kBlockBytes) {
    const uint64_t length = std::min(kBlockBytes, bytes - at);
    if (punch::IsZero(data + at, length)) continue;
    const uint64_t place = offset + at;
    XXH3_64bits_update(state_, &place, sizeof place);
    XXH3_64bits_update(state_, data + at, length);
    empty_ = false;
  }
}

uint64_t WindowDigest::value() const { return empty_ ? 0 : XXH3_64bits_digest(state_); }

std::string DigestOf(const WindowDigests& windows) {
  XXH3_state_t* const state = XXH3_createState();
  XXH3_128bits_reset(state);
  for (const auto& [index, digest] : windows) {
    if (digest == 0) continue;
    const uint64_t pair[] = {index, digest};
    XXH3_128bits_update(state, pair, sizeof pair);
  }
  const XXH128_hash_t all = XXH3_128bits_digest(state);
  XXH3_freeState(state);
  return absl::StrFormat("%016x%016x", all.high64, all.low64);
}

absl::StatusOr<uint64_t> ReadBack(int fd, bool device, uint64_t size_bytes, const std::string& name,
                                  const WindowDigests& wanted, punch::Pacer& pacer,
                                  const std::function<bool()>& interrupted,
                                  const std::stop_token& stop) {
  std::vector<Range> data;
  if (device) {
    AppendJoined(data, {0, size_bytes});
  } else {
    VR_ASSIGN_OR_RETURN(data, punch::ReadDataRanges(fd, size_bytes));
  }
  // From the disk, not from what is left of the writing in the cache.
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  const StepPlan plan =
      MakeSteps({.size_bytes = size_bytes, .source = data, .destination = {}, .same = {}});
  std::mutex mutex;
  absl::Status status;
  WindowDigests found;
  std::atomic<size_t> next = 0;
  std::atomic<bool> failed = false;
  std::atomic<uint64_t> read = 0;
  const auto work = [&] {
    const auto reader = NewFileReader(fd, name);
    WindowDigest digest;
    while (!failed && !stop.stop_requested()) {
      const size_t mine = next++;
      if (mine >= plan.windows.size()) return;
      const auto result = DigestWindow(*reader, plan.windows[mine], interrupted, digest);
      const std::lock_guard lock(mutex);
      if (result.ok()) {
        found.insert(*result);
        for (const Step& step : plan.windows[mine].steps) read += step.range.size();
        pacer.Wait(read, stop, interrupted);
      } else if (status.ok()) {
        status = result.status();
        failed = true;
      }
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 1; i < kDigestThreads && plan.windows.size() > 1; ++i) threads.emplace_back(work);
    work();
  }
  if (stop.stop_requested()) return absl::CancelledError("interrupted");
  VR_RETURN_IF_ERROR(status);
  const auto at = [](const WindowDigests& digests, uint64_t index) {
    const auto entry = digests.find(index);
    return entry == digests.end() ? 0 : entry->second;
  };
  for (const WindowDigests* list : {&wanted, &std::as_const(found)}) {
    for (const auto& [index, digest] : *list) {
      if (at(wanted, index) == at(found, index)) continue;
      return absl::DataLossError(
          absl::StrCat(name, " does not read back as it was written, between ",
                       index * kWindowBytes, " and ", (index + 1) * kWindowBytes));
    }
  }
  return read.load();
}

}  // namespace virt_reclaim::sync
