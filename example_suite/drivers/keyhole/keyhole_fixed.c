// SPDX-License-Identifier: MIT
#define KEYHOLE_FIXED
#include "keyhole.c"
