// virt-reclaim-agent: main, with the one catch-all.
#include <cstdio>
#include <exception>
#include <span>

#include "base/standard_fds.h"
#include "guest-agent/cli.h"

int main(int argc, char** argv) {
  virt_reclaim::KeepStandardFds();
  try {
    return virt_reclaim::agent::RunProgram(
        std::span<const char* const>(argv, static_cast<size_t>(argc)).subspan(1));
  } catch (const std::exception& error) {
    fprintf(stderr, "virt-reclaim-agent: %s\n", error.what());
  } catch (...) {
    fputs("virt-reclaim-agent: an unknown error\n", stderr);
  }
  return virt_reclaim::agent::kExitError;
}
