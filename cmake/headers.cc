// So that the headers that all tests have are compiled once: CMakeLists.txt.
