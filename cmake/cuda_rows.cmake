# liblmhead_cuda.so: the fused row kernel, which knows nothing of torch and is loaded beside liblmhead.so where a CUDA tensor
# comes. nvcc is that of LMHEAD_NVCC, of the toolkit, or of the Python packages nvidia-cuda-nvcc, -runtime, -cccl and their own.
set(LMHEAD_CUDA_ARCHITECTURES 80 90 100 CACHE STRING "Compute capabilities that the kernel is compiled for")
find_program(LMHEAD_NVCC nvcc HINTS "${LIBTORCH_ROOT}/../nvidia/cu13/bin" /usr/local/cuda/bin)
if(LMHEAD_CUDA STREQUAL "AUTO")
  set(LMHEAD_BUILDS_CUDA FALSE)
  if(LMHEAD_NVCC AND EXISTS "${LIBTORCH_LIBRARY_DIR}/libtorch_cuda.so")
    set(LMHEAD_BUILDS_CUDA TRUE)
  endif()
else()
  set(LMHEAD_BUILDS_CUDA ${LMHEAD_CUDA})
endif()
if(NOT LMHEAD_BUILDS_CUDA)
  return()
endif()
if(NOT LMHEAD_NVCC)
  message(FATAL_ERROR "[cmake] LMHEAD_CUDA=ON must have nvcc, got none; -DLMHEAD_NVCC=PATH names one (scripts/check_cuda installs one)")
endif()

set(LMHEAD_CUDA_TARGETS "")
foreach(architecture ${LMHEAD_CUDA_ARCHITECTURES})
  list(APPEND LMHEAD_CUDA_TARGETS -gencode "arch=compute_${architecture},code=sm_${architecture}")
endforeach()
list(GET LMHEAD_CUDA_ARCHITECTURES -1 architecture)  # later ones take its PTX
list(APPEND LMHEAD_CUDA_TARGETS -gencode "arch=compute_${architecture},code=compute_${architecture}")
get_filename_component(LMHEAD_CUDA_ROOT "${LMHEAD_NVCC}" DIRECTORY)
get_filename_component(LMHEAD_CUDA_ROOT "${LMHEAD_CUDA_ROOT}" DIRECTORY)
set(LMHEAD_CUDA_LIBRARY "${CMAKE_LIBRARY_OUTPUT_DIRECTORY}/liblmhead_cuda.so")
file(GLOB LMHEAD_CUDA_HEADERS lmhead/kernels/cuda/*.h lmhead/kernels/vector/*.h lmhead/kernels/logit_transform.h)
add_custom_command(OUTPUT "${LMHEAD_CUDA_LIBRARY}"
  COMMAND "${CMAKE_COMMAND}" -E make_directory "${CMAKE_LIBRARY_OUTPUT_DIRECTORY}"
  COMMAND "${LMHEAD_NVCC}" -std=c++20 -O3 -shared -Xcompiler -fPIC -cudart static "-L${LMHEAD_CUDA_ROOT}/lib" "-I${CMAKE_SOURCE_DIR}"
          -DLMHEAD_VECTOR_LEVEL=cuda ${LMHEAD_CUDA_TARGETS} -o "${LMHEAD_CUDA_LIBRARY}" "${CMAKE_SOURCE_DIR}/lmhead/kernels/cuda/logit_rows.cu"
  DEPENDS lmhead/kernels/cuda/logit_rows.cu ${LMHEAD_CUDA_HEADERS} VERBATIM)
add_custom_target(lmhead_cuda ALL DEPENDS "${LMHEAD_CUDA_LIBRARY}")
if(SKBUILD)
  install(FILES "${LMHEAD_CUDA_LIBRARY}" DESTINATION lmhead)
else()
  install(FILES "${LMHEAD_CUDA_LIBRARY}" DESTINATION lib)
endif()
