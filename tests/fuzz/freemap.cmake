# A fuzzer for each reader of the free map worker, and for its parent's half.
if(TARGET virt_reclaim_freemap)
  set(freemap_fuzzers)
  foreach(reader ext xfs btrfs ntfs vfat exfat swap partitions lvm)
    virt_reclaim_fuzzer(fuzz_freemap_${reader} SOURCES ${CMAKE_CURRENT_LIST_DIR}/fuzz_freemap.cc DEPS virt_reclaim_freemap)
    target_compile_definitions(fuzz_freemap_${reader} PRIVATE VIRT_RECLAIM_FUZZ_READER="${reader}")
    list(APPEND freemap_fuzzers fuzz_freemap_${reader})
  endforeach()
  virt_reclaim_fuzzer(fuzz_freemap_protocol SOURCES ${CMAKE_CURRENT_LIST_DIR}/fuzz_freemap_protocol.cc
    DEPS virt_reclaim_freemap_client)
  list(APPEND freemap_fuzzers fuzz_freemap_protocol)
endif()
