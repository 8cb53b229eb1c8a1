// SPDX-License-Identifier: MIT
#define LEAKY_FIXED
#include "leaky.c"
