# A fuzzer for each reader of the free map worker, compiled once: it goes by its name. And one for the worker's parent's half.
if(TARGET virt_reclaim_freemap)
  add_library(fuzz_freemap OBJECT ${CMAKE_CURRENT_LIST_DIR}/fuzz_freemap.cc)
  target_link_libraries(fuzz_freemap PRIVATE virt_reclaim_freemap)
  set(freemap_fuzzers)
  foreach(reader ext xfs btrfs ntfs vfat exfat swap partitions lvm)
    virt_reclaim_fuzzer(fuzz_freemap_${reader} SOURCES $<TARGET_OBJECTS:fuzz_freemap> DEPS virt_reclaim_freemap)
    list(APPEND freemap_fuzzers fuzz_freemap_${reader})
  endforeach()
  virt_reclaim_fuzzer(fuzz_freemap_protocol SOURCES ${CMAKE_CURRENT_LIST_DIR}/fuzz_freemap_protocol.cc
    DEPS virt_reclaim_freemap_client)
  list(APPEND freemap_fuzzers fuzz_freemap_protocol)
endif()
