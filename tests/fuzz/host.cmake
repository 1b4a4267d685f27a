virt_reclaim_fuzzer(fuzz_explain SOURCES ${CMAKE_CURRENT_LIST_DIR}/fuzz_explain.cc
  DEPS virt_reclaim_cli nlohmann_json::nlohmann_json)
virt_reclaim_fuzzer(fuzz_qemu_agent SOURCES ${CMAKE_CURRENT_LIST_DIR}/fuzz_qemu_agent.cc
  DEPS virt_reclaim_services)
