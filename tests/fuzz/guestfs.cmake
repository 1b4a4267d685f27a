if(VIRT_RECLAIM_GUESTFS)
  virt_reclaim_fuzzer(fuzz_initramfs SOURCES ${CMAKE_CURRENT_LIST_DIR}/fuzz_initramfs.cc
    DEPS virt_reclaim_initramfs_archive)
endif()
