// What bench/trim_latency.py has running in its guest: a small load that notes how long each of its
// requests took, and the free space that is to be trimmed. Static, without any library of the
// project: the guest has nothing but busybox.
//
//   guest_load make DIR FILES MIB   files of MIB MiB, a directory each; every other MiB is written
//   guest_load fill DIR FILES MIB   the MiB between those
//   guest_load free DIR FILES MIB   gives them back: free space in pieces of 1 MiB, over all of it
//   guest_load run DIR DISK         the load, until SIGTERM
//
// The load are two threads: reads of 4 KiB at random, past the page cache, about every 0.5 ms; and
// writes of 4 KiB with fdatasync, about every 2 ms. At each SIGUSR1 a line of JSON tells of the
// time since the one before. When the disk was given discards in that time, only what lies between
// the first and the last of them counts: whoever starts a trim from outside costs the guest time,
// too, and that is not the trim's.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/unique_fd.h"

namespace virt_reclaim {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kMiB = 1 << 20;
constexpr size_t kBlock = 4096;
constexpr size_t kReadMiB = 256;
constexpr size_t kWriteMiB = 64;
constexpr microseconds kBetweenReads{500};
constexpr microseconds kBetweenWrites{2000};
constexpr milliseconds kLookAtDisk{20};
// At both ends of a time without discards: whoever sent the signal had to be started.
constexpr milliseconds kEdge{300};
// Buckets of the histogram for each doubling: 1.4 % wide.
constexpr double kBucketsPerDoubling = 50;

[[noreturn]] void Die(const std::string& what) {
  fprintf(stderr, "guest_load: %s: %s\n", what.c_str(), strerror(errno));
  exit(1);
}

UniqueFd Open(const std::string& path, int flags) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC, 0600));
  if (!fd.valid()) Die(path);
  return fd;
}

// Memory that O_DIRECT takes, with bytes in it that nobody could leave out.
class Buffer {
 public:
  explicit Buffer(size_t size) : data_(static_cast<char*>(std::aligned_alloc(kBlock, size))) {
    std::mt19937 random(static_cast<uint32_t>(size));
    for (size_t i = 0; i < size; ++i) get()[i] = static_cast<char>(random());
  }
  char* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(char* data) const { std::free(data); }
  };
  std::unique_ptr<char, Free> data_;
};

void WriteAt(const UniqueFd& fd, const Buffer& buffer, size_t size, size_t at) {
  if (pwrite(fd.get(), buffer.get(), size, static_cast<off_t>(at)) != static_cast<ssize_t>(size))
    Die("write");
}

// ---- The free space

std::string FileOf(const std::string& dir, size_t number) {
  return dir + "/" + std::to_string(number) + "/data";
}

void Make(const std::string& dir, size_t files, size_t mib) {
  const Buffer buffer(kMiB);
  for (size_t i = 0; i < files; ++i) {
    // ext4 spreads the directories of its root over the block groups.
    if (mkdir((dir + "/" + std::to_string(i)).c_str(), 0700) != 0) Die("mkdir");
    const UniqueFd fd = Open(FileOf(dir, i), O_RDWR | O_CREAT | O_EXCL | O_DIRECT);
    if (fallocate(fd.get(), 0, 0, static_cast<off_t>(mib * kMiB)) != 0) Die("fallocate");
    for (size_t at = 0; at < mib; at += 2) WriteAt(fd, buffer, kMiB, at * kMiB);
    if (fsync(fd.get()) != 0) Die("fsync");
  }
}

void Fill(const std::string& dir, size_t files, size_t mib) {
  const Buffer buffer(kMiB);
  for (size_t i = 0; i < files; ++i) {
    const UniqueFd fd = Open(FileOf(dir, i), O_RDWR | O_DIRECT);
    for (size_t at = 1; at < mib; at += 2) WriteAt(fd, buffer, kMiB, at * kMiB);
    if (fsync(fd.get()) != 0) Die("fsync");
  }
}

void Free(const std::string& dir, size_t files, size_t mib) {
  for (size_t i = 0; i < files; ++i) {
    const UniqueFd fd = Open(FileOf(dir, i), O_RDWR);
    for (size_t at = 1; at < mib; at += 2) {
      if (fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(at * kMiB), kMiB) != 0)
        Die("punch");
    }
    // Only what is in the journal for good is free for a trim.
    if (syncfs(fd.get()) != 0) Die("syncfs");
  }
}

// ---- The load

struct Sample {
  steady_clock::time_point begin;
  microseconds took;
};

// What one thread notes and another one reads.
class Series {
 public:
  // Room from the start: making some costs time that would be noted as a request's.
  Series() {
    samples_.resize(size_t{1} << 20);
    samples_.clear();
  }
  void Add(const Sample& sample) {
    const std::lock_guard lock(mutex_);
    samples_.push_back(sample);
  }
  // The samples of a time, as JSON; forgets all there are.
  std::string Take(steady_clock::time_point begin, steady_clock::time_point end) {
    std::vector<Sample> samples;
    samples.reserve(size_t{1} << 20);
    {
      const std::lock_guard lock(mutex_);
      samples.swap(samples_);
    }
    std::map<int, size_t> buckets;
    microseconds most{0};
    size_t count = 0;
    for (const Sample& sample : samples) {
      if (sample.begin < begin || sample.begin > end) continue;
      const double us = static_cast<double>(std::max<int64_t>(sample.took.count(), 1));
      ++buckets[static_cast<int>(std::log2(us) * kBucketsPerDoubling)];
      most = std::max(most, sample.took);
      ++count;
    }
    std::string json = "{\"count\": " + std::to_string(count) +
                       ", \"max_us\": " + std::to_string(most.count()) + ", \"buckets\": [";
    for (const auto& [bucket, n] : buckets) {
      if (json.back() == ']') json += ", ";
      json += "[" + std::to_string(bucket) + ", " + std::to_string(n) + "]";
    }
    return json + "]}";
  }

 private:
  std::mutex mutex_;
  std::vector<Sample> samples_;
};

// The discards that the disk has finished, by its statistics in sysfs.
class Discards {
 public:
  explicit Discards(const std::string& disk) : path_("/sys/block/" + disk + "/stat") {
    seen_ = Read();
  }

  struct Span {
    steady_clock::time_point begin, end;
    uint64_t count = 0, bytes = 0;
  };

  void Look() {
    const auto now = steady_clock::now();
    const Counters counters = Read();
    const std::lock_guard lock(mutex_);
    if (counters.count != seen_.count) {
      if (!span_) span_ = Span{.begin = looked_, .end = now};
      span_->end = now;
      span_->count += counters.count - seen_.count;
      span_->bytes += (counters.sectors - seen_.sectors) * 512;
      seen_ = counters;
    }
    looked_ = now;
  }
  // Since the last time; empty when there were none.
  std::optional<Span> Take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(span_, std::nullopt);
  }

 private:
  struct Counters {
    uint64_t count = 0, sectors = 0;
  };
  // Documentation/block/stat.rst: the twelfth number and the fourteenth.
  Counters Read() const {
    const UniqueFd fd = Open(path_, O_RDONLY);
    std::array<char, 512> text{};
    if (read(fd.get(), text.data(), text.size() - 1) <= 0) Die(path_);
    std::array<uint64_t, 14> numbers{};
    char* at = text.data();
    for (uint64_t& number : numbers) number = strtoull(at, &at, 10);
    return {numbers[11], numbers[13]};
  }

  const std::string path_;
  std::mutex mutex_;
  Counters seen_;
  steady_clock::time_point looked_ = steady_clock::now();
  std::optional<Span> span_;
};

UniqueFd FullFile(const std::string& path, size_t mib, int flags) {
  UniqueFd fd = Open(path, O_RDWR | O_CREAT | O_DIRECT);
  const Buffer buffer(kMiB);
  for (size_t at = 0; at < mib; ++at) WriteAt(fd, buffer, kMiB, at * kMiB);
  if (fsync(fd.get()) != 0) Die("fsync");
  return Open(path, O_RDWR | flags);
}

class Load {
 public:
  Load(const std::string& dir, const std::string& disk)
      : read_file_(FullFile(dir + "/reads", kReadMiB, O_DIRECT)),
        write_file_(FullFile(dir + "/writes", kWriteMiB, 0)),
        discards_(disk) {}

  // Until SIGTERM, which is blocked in all threads, as is SIGUSR1.
  void Run(const sigset_t& signals) {
    std::jthread reader([this](const std::stop_token& stop) {
      const Buffer buffer(kBlock);
      Repeat(stop, kReadMiB, kBetweenReads, reads_, [&](off_t at) {
        if (pread(read_file_.get(), buffer.get(), kBlock, at) != ssize_t{kBlock}) Die("read");
      });
    });
    std::jthread writer([this](const std::stop_token& stop) {
      const Buffer buffer(kBlock);
      Repeat(stop, kWriteMiB, kBetweenWrites, writes_, [&](off_t at) {
        if (pwrite(write_file_.get(), buffer.get(), kBlock, at) != ssize_t{kBlock}) Die("write");
        if (fdatasync(write_file_.get()) != 0) Die("fdatasync");
      });
    });
    std::jthread watcher([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        discards_.Look();
        std::this_thread::sleep_for(kLookAtDisk);
      }
    });
    auto begin = steady_clock::now();
    for (int number = 0; sigwait(&signals, &number) == 0 && number == SIGUSR1;) {
      const auto end = steady_clock::now();
      Report(begin, end);
      begin = steady_clock::now();
    }
  }

 private:
  template <typename Request>
  static void Repeat(const std::stop_token& stop, size_t mib, microseconds between, Series& series,
                     Request request) {
    std::mt19937 random(1);
    const auto blocks = static_cast<uint32_t>(mib * kMiB / kBlock);
    while (!stop.stop_requested()) {
      const auto at = static_cast<off_t>(random() % blocks) * static_cast<off_t>(kBlock);
      const auto begin = steady_clock::now();
      request(at);
      series.Add({begin, std::chrono::duration_cast<microseconds>(steady_clock::now() - begin)});
      std::this_thread::sleep_for(between);
    }
  }

  void Report(steady_clock::time_point begin, steady_clock::time_point end) {
    discards_.Look();
    const auto span = discards_.Take();
    begin = span ? span->begin : begin + kEdge;
    end = span ? span->end : end - kEdge;
    const std::string reads = reads_.Take(begin, end);
    const std::string writes = writes_.Take(begin, end);
    printf("{\"seconds\": %.3f, \"discards\": %llu, \"discarded_bytes\": %llu, ",
           std::chrono::duration<double>(end - begin).count(),
           static_cast<unsigned long long>(span ? span->count : 0),
           static_cast<unsigned long long>(span ? span->bytes : 0));
    printf("\"reads\": %s, \"writes\": %s}\n", reads.c_str(), writes.c_str());
    fflush(stdout);
  }

  const UniqueFd read_file_, write_file_;
  Discards discards_;
  Series reads_, writes_;
};

int Main(const std::vector<std::string>& words) {
  if (words.size() == 3 && words[0] == "run") {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    Load(words[1], words[2]).Run(signals);
    return 0;
  }
  if (words.size() != 4) {
    fputs("usage: guest_load make|fill|free DIR FILES MIB | run DIR DISK\n", stderr);
    return 2;
  }
  const size_t files = std::stoul(words[2]), mib = std::stoul(words[3]);
  if (words[0] == "make") Make(words[1], files, mib);
  if (words[0] == "fill") Fill(words[1], files, mib);
  if (words[0] == "free") Free(words[1], files, mib);
  return 0;
}

}  // namespace
}  // namespace virt_reclaim

int main(int argc, char** argv) {
  return virt_reclaim::Main(std::vector<std::string>(argv + 1, argv + argc));
}
