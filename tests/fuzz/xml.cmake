virt_reclaim_fuzzer(fuzz_xml SOURCES ${CMAKE_CURRENT_LIST_DIR}/fuzz_xml.cc DEPS virt_reclaim_xml_tools)
