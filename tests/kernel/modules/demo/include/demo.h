/* SPDX-License-Identifier: MIT */
int demo_add(int total, int amount);
