# Only the sources that are fuzzed, and what they need: the whole libraries, built with all of this, take as long as everything else.
function(virt_reclaim_host_fuzzer name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  list(TRANSFORM arg_SOURCES PREPEND ${PROJECT_SOURCE_DIR}/host/)
  virt_reclaim_fuzzer(${name} SOURCES ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/${name}.cc ${arg_SOURCES}
    DEPS virt_reclaim_model nlohmann_json::nlohmann_json ${arg_DEPS})
endfunction()

virt_reclaim_host_fuzzer(fuzz_explain
  SOURCES cli/explain_output.cc cli/hints.cc cli/json_parts.cc cli/outcome_output.cc cli/text_table.cc
    services/guest_filesystems_proto.cc
  DEPS virt_reclaim_agent_proto protobuf::libprotobuf-lite)
virt_reclaim_host_fuzzer(fuzz_qemu_agent SOURCES services/guest_agent.cc services/qemu_agent_answer.cc services/qemu_guest_agent.cc)
virt_reclaim_host_fuzzer(fuzz_qcow2
  SOURCES punch/data_map.cc punch/qcow2_clusters.cc punch/read_at.cc services/qcow2_header.cc sparsify/snapshot_space.cc)
