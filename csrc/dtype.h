// Element types that every kernel accepts. Framework-free: no torch header is included under csrc/.
#pragma once

namespace mffpa {

enum class DType : int { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3 };

}  // namespace mffpa
