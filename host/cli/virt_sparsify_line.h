// The command line of virt-sparsify 1.48, read as it reads it (getopt_long_only: unique
// abbreviations, one dash or two, options behind disks), with its messages. Our own verbs never
// abbreviate; this is for scripts that were written for the other.
#ifndef VIRT_RECLAIM_HOST_CLI_VIRT_SPARSIFY_LINE_H_
#define VIRT_RECLAIM_HOST_CLI_VIRT_SPARSIFY_LINE_H_

#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace virt_reclaim {

struct VirtSparsifyLine {
  enum class CheckTmpdir { kWarn, kIgnore, kContinue, kFail };
  std::vector<std::string> disks;  // in place one; else input and output
  bool in_place = false;
  CheckTmpdir check_tmpdir = CheckTmpdir::kWarn;
  bool compress = false;
  std::string convert;              // output format; empty: as the input's
  std::string format;               // input format; empty: looked at
  std::string qemu_options;         // -o
  std::string tmp;                  // a directory, a block device, "prebuilt:FILE"; empty: TMPDIR
  std::vector<std::string> ignore;  // filesystems and volume groups: "/dev/sda1", "vg"
  std::vector<std::string> zero;    // filesystems
  std::vector<std::string> keys;    // selectors of --key
  bool keys_from_stdin = false;
  bool echo_keys = false;
  bool quiet = false, verbose = false, trace = false;
  bool colours = false, wrap = false;
  bool machine_readable = false;
  std::string machine_output;  // "file:NAME", "stream:stdout", "fd:3"; empty: standard output
};

// What to print instead of working, and the status to end with.
struct VirtSparsifyEnd {
  std::string out, err;
  int status = 0;
};

// `arguments` without the program's name. Sets getopt's globals: one thread.
std::variant<VirtSparsifyLine, VirtSparsifyEnd> ParseVirtSparsify(
    const std::vector<std::string>& arguments);

// "virt-sparsify: error: TEXT", with its advice unless both -v and -x were given.
std::string VirtSparsifyError(const std::string& text, bool advice);

}  // namespace virt_reclaim

#endif  // VIRT_RECLAIM_HOST_CLI_VIRT_SPARSIFY_LINE_H_
