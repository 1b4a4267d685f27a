// So that there is something to compile the shared headers for: Precompiled.cmake.
