// How the drop-in says things: as virt-sparsify, with the seconds since the start, and for
// --machine-readable as JSON, to wherever that was wanted.
#ifndef VIRT_RECLAIM_HOST_CLI_VIRT_SPARSIFY_SPEAKER_H_
#define VIRT_RECLAIM_HOST_CLI_VIRT_SPARSIFY_SPEAKER_H_

#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "base/unique_fd.h"
#include "host/cli/virt_sparsify_line.h"
#include "host/cli/virt_sparsify_program.h"

namespace virt_reclaim {

// One thread.
class VirtSparsifySpeaker {
 public:
  // Opens what --machine-readable=file:NAME or fd:N names, before any descriptor of ours can have
  // the number N. Errors are those of open(2) and dup(2). `line` and `streams` must outlive it.
  static absl::StatusOr<VirtSparsifySpeaker> Make(const VirtSparsifyLine& line,
                                                  const VirtSparsifyStreams& streams);

  void Message(const std::string& text) const;
  // Said also when quiet, and on standard output, as virt-sparsify does. May have several lines.
  void Warning(const std::string& text) const;
  void Info(const std::string& text) const;
  // Returns the status, 1. May have several lines.
  int Error(const std::string& text) const;
  // "123/456" on a line of its own, for --machine-readable, three times a second and at the end.
  void Progress(uint64_t done, uint64_t total);
  // To standard error, as it is.
  void Plain(const std::string& text) const { streams_->err(text); }

 private:
  VirtSparsifySpeaker(const VirtSparsifyLine& line, const VirtSparsifyStreams& streams,
                      UniqueFd json)
      : line_(&line),
        streams_(&streams),
        json_(std::move(json)),
        begin_(std::chrono::steady_clock::now()) {}

  void Json(const char* type, const std::string& text) const;

  const VirtSparsifyLine* line_;
  const VirtSparsifyStreams* streams_;
  UniqueFd json_;  // of file: and fd:
  std::chrono::steady_clock::time_point begin_, last_progress_;
};

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_VIRT_SPARSIFY_SPEAKER_H_
