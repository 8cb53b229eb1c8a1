// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>

/* As long as main.c's, and with the same names. */
struct twin { s64 first; u64 second; };
struct twin other_twin = { -1, 2 };
struct pair { struct twin one, two; };
struct pair other_pair;

/* The kernel has one of 184 bytes (arch/x86/events/intel/pt.h). */
struct pt { u8 x, y; };
struct pt other_points[2] = { { 3, 5 }, { 7, 9 } };
struct pt *other_pointer = other_points;
