// What travels where processes pass parts on to their neighbours in a ring (Patarasuk & Yuan 2009): the least that any
// way of sending could do with.
#pragma once

#include <cstdint>

namespace lmhead {

/// How often a part of what travels goes round: a sum is a scattered sum, and a gather of what came of it.
enum class RingRounds { kScatteredSum = 1, kGather = 1, kSum = 2, kBroadcast = 1 };

/// Bytes that each of `size` processes sends; `bytes`: of the sum, or of the parts of all processes together.
inline double ring_bytes(RingRounds rounds, double bytes, std::int64_t size) {
  return double(int(rounds)) * double(size - 1) / double(size) * bytes;
}

/// Times that it waits for its neighbour.
inline double ring_hops(RingRounds rounds, std::int64_t size) { return double(int(rounds)) * double(size - 1); }

}  // namespace lmhead
