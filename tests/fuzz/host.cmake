# What the sanitized tests need of the host is compiled already. Of the command line only what is fuzzed is.
virt_reclaim_fuzzer(fuzz_qemu_agent SOURCES ${CMAKE_CURRENT_LIST_DIR}/fuzz_qemu_agent.cc DEPS virt_reclaim_services)
virt_reclaim_fuzzer(fuzz_qcow2 SOURCES ${CMAKE_CURRENT_LIST_DIR}/fuzz_qcow2.cc DEPS virt_reclaim_services virt_reclaim_sparsify)
set(explain_sources explain_output.cc hints.cc json_parts.cc outcome_output.cc text_table.cc)
list(TRANSFORM explain_sources PREPEND ${PROJECT_SOURCE_DIR}/host/cli/)
virt_reclaim_fuzzer(fuzz_explain SOURCES ${CMAKE_CURRENT_LIST_DIR}/fuzz_explain.cc ${explain_sources} DEPS virt_reclaim_services)
set_target_properties(fuzz_explain PROPERTIES UNITY_BUILD ON)
