// SPDX-License-Identifier: GPL-2.0
#include "forms.h"

int other_step;
static int secret = 22;
static noinline int of_both(int x) { secret += other_step; return x + secret; }
long in_other(struct pair *p, int n) { return of_header(p, n) + of_both(n); }
