# The row operations are compiled once for each instruction set; lmhead/kernels/vector_dispatch.cc chooses at run time.
# Contraction to fused multiply-add and vectorised reductions are allowed in these files only. clang takes no maximum of
# floating numbers by vectors, and is not asked to say so.
set(LMHEAD_VECTOR_FLAGS -O3 -fopenmp-simd -ffp-contract=fast -fno-math-errno -fno-trapping-math
    $<$<CXX_COMPILER_ID:Clang>:-Wno-pass-failed>)

function(lmhead_add_vector_level level)
  add_library(lmhead_vector_${level} OBJECT lmhead/kernels/vector/row_kernels.cc)
  target_link_libraries(lmhead_vector_${level} PRIVATE lmhead_options)
  target_compile_options(lmhead_vector_${level} PRIVATE ${LMHEAD_VECTOR_FLAGS} ${ARGN})
  target_compile_definitions(lmhead_vector_${level} PRIVATE LMHEAD_VECTOR_LEVEL=${level})
  target_sources(lmhead PRIVATE $<TARGET_OBJECTS:lmhead_vector_${level}>)
endfunction()

lmhead_add_vector_level(baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
  lmhead_add_vector_level(avx2 -mavx2 -mfma -mf16c)
  lmhead_add_vector_level(avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mprefer-vector-width=512)
  target_compile_definitions(lmhead PRIVATE LMHEAD_VECTOR_X86)
endif()

# at::parallel_for is a template whose threads are an OpenMP region of the including file: without -fopenmp it silently
# runs on one thread. The runtime must be the very one that libtorch uses, or each would keep threads of its own.
target_compile_options(lmhead PRIVATE -fopenmp)
file(GLOB LMHEAD_OPENMP_RUNTIME "${LIBTORCH_LIBRARY_DIR}/libgomp*.so*" "${LIBTORCH_LIBRARY_DIR}/libomp*.so*"
     "${LIBTORCH_LIBRARY_DIR}/libiomp5*.so*")
# clang's regions call a runtime that libgomp is not: its build is for what the compiler says, not for use.
if(NOT LMHEAD_OPENMP_RUNTIME OR CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  find_package(OpenMP REQUIRED)
  set(LMHEAD_OPENMP_RUNTIME ${OpenMP_CXX_LIBRARIES})
endif()
list(GET LMHEAD_OPENMP_RUNTIME 0 LMHEAD_OPENMP_RUNTIME)
target_link_libraries(lmhead PRIVATE "${LMHEAD_OPENMP_RUNTIME}")
