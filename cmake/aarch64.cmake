# Cross build for aarch64 Linux with Debian's compiler (g++-aarch64-linux-gnu). Programs are static, so that they run on
# any such machine, and under qemu-aarch64 (qemu-user-static) where that is installed: ctest then uses it by itself.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_EXE_LINKER_FLAGS_INIT -static)

# No library of the building machine is taken for one of the other.
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)

find_program(FOVEAL_QEMU NAMES qemu-aarch64-static qemu-aarch64)
if(FOVEAL_QEMU)
  set(CMAKE_CROSSCOMPILING_EMULATOR ${FOVEAL_QEMU})
endif()
